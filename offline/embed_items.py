"""Text vectors of a whole catalogue."""

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.text_encoder import TextConfig, TextEncoder
from offline.progress import progress


def embed_items(catalog: Catalog, config: TextConfig) -> NDArray[np.float32]:
    """Unit-length text vectors of every item; float32 [N, X].

    Raises:
        TesseraError: the encoder cannot be found.
    """
    encoder = TextEncoder(config)
    with progress("text vectors", len(catalog), "items") as advance:
        return encoder.encode([catalog.document(index) for index in range(len(catalog))], advance)
