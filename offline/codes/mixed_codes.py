"""Codes that mix two recipes: two levels of residual k-means on joint vectors, then a balanced token of each source.

The first two tokens are those of residual k-means (Semantic Convergence, arXiv:2412.13771): coarse to fine, of vectors
that text and behaviour agree on, in clusters as large as they are. They do not name an item, so the text token and the
behaviour token that follow, each the first of EAGER-LLM's (arXiv:2502.14735), decide. Joint tokens come first because
the trie's first choices should be those both sources speak for.

Shapes: N items, D size of joint vector, text and behaviour side by side, L levels, C entries a level.
"""

import numpy as np
from numpy.typing import NDArray

from model_store.code_assignment import make_unique, nearest_codes
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from offline.codes.balanced_kmeans import balanced_kmeans, cluster_means
from offline.codes.config import CodesConfig
from offline.codes.quantization import Quantization, at_nearest_entry, collision_report, unexplained
from offline.codes.residual_kmeans import residual_kmeans

_JOINT_LEVELS = 2


def mixed_codes(
    vectors_ND: NDArray[np.float32],
    joint_size: int,
    text_size: int,
    known_N: NDArray[np.bool_],
    config: CodesConfig,
    seed: int,
) -> Quantization:
    """Give every item a unique code.

    Args:
        vectors_ND: joint vector, text and behaviour side by side, as `codes.input = "all"` makes them.
        joint_size, text_size: how many of the D columns are joint, and how many after these are text.
        known_N: items with training events; the joint levels are made of these alone, the balanced ones of all.
        config: settings.
        seed: everything drawn depends on it alone.

    Raises:
        TesseraError: a vector is not finite.
    """
    entries = config.entries_for(int(known_N.sum()))
    joint = vectors_ND[:, :joint_size]
    codebooks = np.zeros((len(LEVEL_LETTERS), CODEBOOK_SIZE, vectors_ND.shape[1]), dtype=np.float32)
    codebooks[:_JOINT_LEVELS, :entries, :joint_size] = residual_kmeans(
        joint[known_N], entries, config.iterations, seed, levels=_JOINT_LEVELS
    )
    raw = np.empty((len(vectors_ND), len(LEVEL_LETTERS)), dtype=np.uint8)
    raw[:, :_JOINT_LEVELS] = nearest_codes(vectors_ND, codebooks[:_JOINT_LEVELS], entries)
    text_end = joint_size + text_size
    for level, columns in ((2, slice(joint_size, text_end)), (3, slice(text_end, None))):
        labels = balanced_kmeans(vectors_ND[:, columns], entries, config.iterations, seed)
        raw[:, level] = labels
        codebooks[level, :entries, columns] = cluster_means(vectors_ND[:, columns], labels, entries)
    codes, moved = make_unique(raw, vectors_ND, codebooks, entries)
    quantized = codebooks[np.arange(len(LEVEL_LETTERS)), codes].sum(axis=1)
    return Quantization(
        codes_NL=codes,
        codebooks_LCD=codebooks,
        vectors_ND=vectors_ND,
        report={
            **collision_report(raw, codes, entries, moved),
            "unexplained_variance": unexplained(vectors_ND - quantized, vectors_ND, known_N),
            "share_at_nearest_entry": at_nearest_entry(raw, vectors_ND, codebooks, entries),
        },
    )
