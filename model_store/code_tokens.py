"""Where the code tokens live in a tokenizer's vocabulary."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.errors import DecoderUnusable
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS, ItemCodes, code_token_names


class Vocabulary(Protocol):
    """The part of a Hugging Face tokenizer that is needed here."""

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""


@dataclass(frozen=True)
class CodeTokens:
    """Token id of every code token: `ids_LC[level, entry]`, int32 [L, C]."""

    ids_LC: NDArray[np.int32]

    @classmethod
    def from_vocabulary(cls, tokenizer: Vocabulary, source: Path) -> "CodeTokens":
        """Look the code tokens up.

        Raises:
            DecoderUnusable: the tokenizer at `source` lacks one; it does not belong to a Tessera model.
        """
        vocabulary = tokenizer.get_vocab()
        names = code_token_names(len(LEVEL_LETTERS))
        missing = [name for name in names if name not in vocabulary]
        if missing:
            raise DecoderUnusable(f"{source}: the tokenizer lacks {len(missing)} code tokens, first {missing[0]}")
        ids = np.array([vocabulary[name] for name in names], dtype=np.int32)
        return cls(ids.reshape(len(LEVEL_LETTERS), CODEBOOK_SIZE))

    def of_items(self, codes: ItemCodes) -> NDArray[np.int32]:
        """The tokens that spell each item; int32 [N, L]."""
        tokens: NDArray[np.int32] = self.ids_LC[np.arange(codes.levels), codes.codes_NL]
        return tokens
