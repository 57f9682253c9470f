"""Vectors to unique codes: the nearest entry of each codebook in turn, then a free code near by for items that collide.

Training and the assignment of codes to new items share these functions, so that the same vector gets the same code.

Shapes: N items, D vector size, L levels, C entries in use of a level's CODEBOOK_SIZE rows.
"""

from collections.abc import Set

import numpy as np
from numpy.typing import NDArray

from model_store.errors import TesseraError
from model_store.item_codes import CODEBOOK_SIZE

_CHUNK = 1 << 16


def nearest_codes(
    vectors_ND: NDArray[np.float32], codebooks_LCD: NDArray[np.float32], entries: int
) -> NDArray[np.uint8]:
    """Take the nearest of the first `entries` entries at each level, of what the levels before left; uint8 [N, L]."""
    codes = np.empty((len(vectors_ND), len(codebooks_LCD)), dtype=np.uint8)
    for start in range(0, len(vectors_ND), _CHUNK):
        residual = vectors_ND[start : start + _CHUNK]
        for level, codebook_CD in enumerate(codebooks_LCD[:, :entries]):
            distance = (codebook_CD**2).sum(axis=1) - 2 * residual @ codebook_CD.T
            codes[start : start + _CHUNK, level] = chosen = distance.argmin(axis=1)
            residual = residual - codebook_CD[chosen]
    return codes


def packed_codes(codes_NL: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Each code as one big-endian number; uint32 [N]."""
    return np.ascontiguousarray(codes_NL).view(">u4").astype(np.uint32).ravel()


def make_unique(
    codes_NL: NDArray[np.uint8],
    vectors_ND: NDArray[np.float32],
    codebooks_LCD: NDArray[np.float32],
    entries: int,
    taken: Set[int] = frozenset(),
) -> tuple[NDArray[np.uint8], int]:
    """Resolve collisions: of the items that share a code the best quantized one keeps it, the others move nearby.

    An item moves to the nearest free last-level entry under its own prefix, entries that k-means does not use coming
    last; when all are taken, to the next-nearest entry one level up. Returns the codes and how many items moved.

    Args:
        codes_NL: the nearest codes.
        vectors_ND: what they quantize.
        codebooks_LCD: of all levels.
        entries: C.
        taken: packed codes of other items, which nobody may get.

    Raises:
        TesseraError: more items share their first codes than there are codes under them.
    """
    codes = codes_NL.copy()
    error = ((vectors_ND - codebooks_LCD[np.arange(codes.shape[1]), codes].sum(axis=1)) ** 2).sum(axis=1)
    packed = packed_codes(codes).tolist()
    given: set[int] = set()
    homeless = []
    for item in np.argsort(error, kind="stable").tolist():
        if packed[item] in given or packed[item] in taken:
            homeless.append(item)
        else:
            given.add(packed[item])
    for item in homeless:
        codes[item] = _nearest_free(codes[item], vectors_ND[item], codebooks_LCD, entries, given, taken)
        given.add(int.from_bytes(codes[item].tobytes(), "big"))
    return codes, len(homeless)


def _nearest_free(
    code_L: NDArray[np.uint8],
    vector_D: NDArray[np.float32],
    codebooks_LCD: NDArray[np.float32],
    entries: int,
    given: Set[int],
    taken: Set[int],
) -> NDArray[np.uint8]:
    parent = vector_D - codebooks_LCD[np.arange(len(code_L) - 2), code_L[:-2]].sum(axis=0)
    third_choices = [int(code_L[-2]), *_by_distance(parent, codebooks_LCD[-2], entries)]
    for third in third_choices:
        residual = parent - codebooks_LCD[-2, third]
        for last in _by_distance(residual, codebooks_LCD[-1], entries):
            candidate = np.array([*code_L[:-2], third, last], dtype=np.uint8)
            number = int.from_bytes(candidate.tobytes(), "big")
            if number not in given and number not in taken:
                return candidate
    raise TesseraError(
        f"item codes: over {CODEBOOK_SIZE**2} items share the code prefix {code_L[:-2].tolist()}; "
        "their vectors are too alike to tell apart (is the catalogue's text empty?)"
    )


def _by_distance(vector_D: NDArray[np.float32], codebook_CD: NDArray[np.float32], entries: int) -> list[int]:
    distance = ((codebook_CD[:entries] - vector_D) ** 2).sum(axis=1)
    return [*np.argsort(distance, kind="stable").tolist(), *range(entries, CODEBOOK_SIZE)]
