"""Cascaded codebooks by residual k-means: each level clusters what the levels before left over.

Follows the cascade of RQ-VAE tokenizers (Rajput et al., arXiv:2305.05065; Semantic Convergence, arXiv:2412.13771,
clusters embeddings to initialise its codebooks). What we changed: k-means alone, no trained encoder, and collisions are
resolved so that every item has a code of its own.

Shapes: N items, D vector size, L levels, C entries a level.
"""

import faiss
import numpy as np
from numpy.typing import NDArray

from model_store.code_assignment import make_unique, nearest_codes
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from offline.codes.config import CodesConfig
from offline.codes.quantization import Quantization, collision_report, unexplained


def quantize(
    vectors_ND: NDArray[np.float32],
    config: CodesConfig,
    seed: int,
    known_N: NDArray[np.bool_] | None = None,
) -> Quantization:
    """Give every item a unique code; near items share prefixes.

    Args:
        vectors_ND: what is quantized.
        config: settings.
        seed: of k-means; level n uses seed + n.
        known_N: items whose vectors the codebooks are made of; all when None.
    """
    known = vectors_ND if known_N is None else vectors_ND[known_N]
    entries = config.entries_for(len(known))
    codebooks = np.zeros((len(LEVEL_LETTERS), CODEBOOK_SIZE, vectors_ND.shape[1]), dtype=np.float32)
    codebooks[:, :entries] = residual_kmeans(known, entries, config.iterations, seed)
    raw = nearest_codes(vectors_ND, codebooks, entries)
    codes, moved = make_unique(raw, vectors_ND, codebooks, entries)
    quantized = codebooks[np.arange(len(LEVEL_LETTERS)), codes].sum(axis=1)
    error = unexplained(vectors_ND - quantized, vectors_ND, known_N)
    return Quantization(
        codes_NL=codes,
        codebooks_LCD=codebooks,
        vectors_ND=vectors_ND,
        report={**collision_report(raw, codes, entries, moved), "unexplained_variance": error},
    )


def residual_kmeans(
    vectors_ND: NDArray[np.float32], entries: int, iterations: int, seed: int, levels: int = len(LEVEL_LETTERS)
) -> NDArray[np.float32]:
    """Centres of the vectors, then of what these leave over, and so on; float32 [L, entries, D]."""
    residual = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    centres = []
    for level in range(levels):
        # min_points_per_centroid silences a warning; few points per entry is what a small catalogue has.
        kmeans = faiss.Kmeans(
            residual.shape[1], entries, niter=iterations, seed=seed + level, min_points_per_centroid=1
        )
        kmeans.train(residual)
        centres.append(np.asarray(kmeans.centroids))
        residual = residual - centres[-1][kmeans.index.search(residual, 1)[1][:, 0]]
    return np.stack(centres)
