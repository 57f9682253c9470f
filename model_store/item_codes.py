"""Item codes: the short token sequences that name catalogue items.

Shapes: N items, L levels. A code is a row of L bytes, one codebook entry per level, and no two items share one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_store.errors import BundleCorrupt

LEVEL_LETTERS = "uvxy"
"""One letter per level, as in the paper (arXiv:2412.13771): `<u_17><v_203><x_5><y_91>`."""

CODE_TEMPLATE = "".join(f"<{letter}_%d>" for letter in LEVEL_LETTERS)
"""`code_text` of a tuple of plain numbers, which is faster for many."""

CODEBOOK_SIZE = 256
"""Entries a level can have at most; a code byte indexes them."""


def code_text(code: NDArray[np.uint8]) -> str:
    """Write one code the way the tokenizer knows it.

    >>> code_text(np.array([17, 203, 5, 91], dtype=np.uint8))
    '<u_17><v_203><x_5><y_91>'
    """
    return "".join(f"<{letter}_{value}>" for letter, value in zip(LEVEL_LETTERS, code.tolist(), strict=True))


def code_token_names(levels: int, size: int = CODEBOOK_SIZE) -> list[str]:
    """Every code token, level by level: `<u_0> ... <u_255> <v_0> ...`; length levels * size."""
    return [f"<{letter}_{value}>" for letter in LEVEL_LETTERS[:levels] for value in range(size)]


@dataclass(frozen=True)
class ItemCodes:
    """The code of every item. `codes_NL` is uint8 [N, L], row = item index.

    Raises:
        BundleCorrupt: the array is not uint8 [N, L] with L levels we have letters for, or two items share a code.
    """

    codes_NL: NDArray[np.uint8]

    def __post_init__(self) -> None:
        codes = self.codes_NL
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != len(LEVEL_LETTERS):
            raise BundleCorrupt(
                f"item codes: expected uint8 [items, {len(LEVEL_LETTERS)}], got {codes.dtype} {list(codes.shape)}"
            )
        packed = np.sort(self.packed)
        shared = int(np.count_nonzero(packed[1:] == packed[:-1]))
        if shared:
            raise BundleCorrupt(f"item codes: {shared} items share their code with another; codes must be unique")

    def __len__(self) -> int:
        return int(self.codes_NL.shape[0])

    @property
    def levels(self) -> int:
        """L, the number of code tokens an item takes."""
        return int(self.codes_NL.shape[1])

    @cached_property
    def packed(self) -> NDArray[np.uint32]:
        """Each code as one big-endian number, so that numeric order is code order; uint32 [N]."""
        return np.ascontiguousarray(self.codes_NL).view(">u4").astype(np.uint32).ravel()

    @cached_property
    def _by_packed(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        order = np.argsort(self.packed, kind="stable")
        return self.packed[order], order

    def items_of(self, codes_KL: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Item indices of codes, -1 where no item has that code; int64 [K]."""
        if len(codes_KL) == 0 or len(self) == 0:
            return np.full(len(codes_KL), -1, dtype=np.int64)
        wanted = np.ascontiguousarray(codes_KL, dtype=np.uint8).view(">u4").astype(np.uint32).ravel()
        packed, order = self._by_packed
        at = np.minimum(np.searchsorted(packed, wanted), len(packed) - 1)
        return np.where(packed[at] == wanted, order[at], -1)
