"""Cascaded codebooks by residual k-means, and unique codes out of them.

Follows the cascade of RQ-VAE tokenizers (Rajput et al., arXiv:2305.05065; Semantic Convergence, arXiv:2412.13771,
clusters embeddings to initialise its codebooks). What we changed: k-means alone, no trained encoder, and collisions are
resolved so that every item has a code of its own.

Shapes: N items, D vector size, L levels, C entries a level.
"""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from model_store.errors import TesseraError
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS

_ITEMS_PER_ENTRY = 8


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """Settings of the item codes."""

    entries: int = CODEBOOK_SIZE
    """Codebook entries a level, at most. Small catalogues use one entry per 8 items: more would give every item an
    entry of its own, and nothing shared for the model to learn from."""
    iterations: int = 50
    """Rounds of k-means a level."""

    def __post_init__(self) -> None:
        if not 2 <= self.entries <= CODEBOOK_SIZE:
            raise TesseraError(f"codes.entries must be between 2 and {CODEBOOK_SIZE}, not {self.entries}")


@dataclass(frozen=True)
class Quantization:
    """Codes and what they came from.

    Attributes:
        codes_NL: uint8 [N, L], unique rows.
        codebooks_LCD: float32 [L, C, D], rows beyond the entries in use are zero.
        report: collisions before resolution, items moved, entries used and perplexity per level.
    """

    codes_NL: NDArray[np.uint8]
    codebooks_LCD: NDArray[np.float32]
    report: dict[str, object]


def quantize(vectors_ND: NDArray[np.float32], config: CodesConfig, seed: int) -> Quantization:
    """Give every item a unique code; near items share prefixes."""
    count, size = vectors_ND.shape
    levels = len(LEVEL_LETTERS)
    entries = min(config.entries, max(2, count // _ITEMS_PER_ENTRY))
    codebooks = np.zeros((levels, CODEBOOK_SIZE, size), dtype=np.float32)
    codes = np.zeros((count, levels), dtype=np.uint8)
    residual = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    for level in range(levels):
        # min_points_per_centroid silences a warning; few points per entry is what a small catalogue has.
        kmeans = faiss.Kmeans(size, entries, niter=config.iterations, seed=seed + level, min_points_per_centroid=1)
        kmeans.train(residual)
        codebooks[level, :entries] = kmeans.centroids
        codes[:, level] = kmeans.index.search(residual, 1)[1][:, 0]
        residual = residual - codebooks[level, codes[:, level]]

    raw_shared = _sharing(codes)
    raw_prefix_shared = _sharing(codes[:, :-1])
    unique, moved = make_unique(codes, vectors_ND, codebooks, entries)
    return Quantization(
        codes_NL=unique,
        codebooks_LCD=codebooks,
        report={
            "items": count,
            "entries": entries,
            "share_of_items_colliding_before": raw_shared / count,
            "share_of_items_sharing_all_but_the_last_level": raw_prefix_shared / count,
            "items_moved": moved,
            "distinct_prefixes": [len(np.unique(unique[:, : depth + 1], axis=0)) for depth in range(levels)],
            "perplexity": [_perplexity(unique[:, level]) for level in range(levels)],
        },
    )


def make_unique(
    codes_NL: NDArray[np.uint8], vectors_ND: NDArray[np.float32], codebooks_LCD: NDArray[np.float32], entries: int
) -> tuple[NDArray[np.uint8], int]:
    """Resolve collisions: of the items that share a code the best quantized one keeps it, the others move nearby.

    An item moves to the nearest free last-level entry under its own prefix, entries that k-means does not use coming
    last; when all are taken, to the next-nearest entry one level up. Returns the codes and how many items moved.

    Raises:
        TesseraError: more items share their first codes than there are codes under them.
    """
    codes = codes_NL.copy()
    levels = codes.shape[1]
    depths = np.arange(levels)
    error = ((vectors_ND - codebooks_LCD[depths, codes].sum(axis=1)) ** 2).sum(axis=1)
    taken: set[bytes] = set()
    homeless = []
    for item in np.argsort(error, kind="stable").tolist():
        code = codes[item].tobytes()
        if code in taken:
            homeless.append(item)
        else:
            taken.add(code)
    for item in homeless:
        codes[item] = _nearest_free(codes[item], vectors_ND[item], codebooks_LCD, entries, taken)
        taken.add(codes[item].tobytes())
    return codes, len(homeless)


def _nearest_free(
    code_L: NDArray[np.uint8],
    vector_D: NDArray[np.float32],
    codebooks_LCD: NDArray[np.float32],
    entries: int,
    taken: set[bytes],
) -> NDArray[np.uint8]:
    parent = vector_D - codebooks_LCD[np.arange(len(code_L) - 2), code_L[:-2]].sum(axis=0)
    third_choices = [int(code_L[-2]), *_by_distance(parent, codebooks_LCD[-2], entries)]
    for third in third_choices:
        residual = parent - codebooks_LCD[-2, third]
        for last in _by_distance(residual, codebooks_LCD[-1], entries):
            candidate = np.array([*code_L[:-2], third, last], dtype=np.uint8)
            if candidate.tobytes() not in taken:
                return candidate
    raise TesseraError(
        f"item codes: over {CODEBOOK_SIZE**2} items share the code prefix {code_L[:-2].tolist()}; "
        "their vectors are too alike to tell apart (is the catalogue's text empty?)"
    )


def _by_distance(vector_D: NDArray[np.float32], codebook_CD: NDArray[np.float32], entries: int) -> list[int]:
    distance = ((codebook_CD[:entries] - vector_D) ** 2).sum(axis=1)
    return [*np.argsort(distance, kind="stable").tolist(), *range(entries, CODEBOOK_SIZE)]


def _sharing(codes: NDArray[np.uint8]) -> int:
    """How many items share their (partial) code with another one."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return int((counts[inverse.ravel()] > 1).sum())


def _perplexity(entries_N: NDArray[np.uint8]) -> float:
    share = np.bincount(entries_N) / len(entries_N)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
