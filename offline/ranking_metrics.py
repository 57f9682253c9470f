"""Recall and NDCG of one held-out item a user.

With a single relevant item Recall@k is the share of users whose item is among the first k, and NDCG@k is the mean of
1 / log2(1 + rank) over those users, the ideal DCG being 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20)


def ranking_metrics(ranks: NDArray[np.integer], cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Metrics from the 1-based rank of each user's item, 0 where it was not ranked; int [n].

    >>> ranking_metrics(np.array([1, 3, 0, 0]), cutoffs=[2, 5])
    {'recall@2': 0.25, 'ndcg@2': 0.25, 'recall@5': 0.5, 'ndcg@5': 0.375}
    """
    metrics = {}
    for cutoff in cutoffs:
        found = (ranks >= 1) & (ranks <= cutoff)
        gains = np.where(found, 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0)
        metrics[f"recall@{cutoff}"] = float(found.mean()) if len(ranks) else 0.0
        metrics[f"ndcg@{cutoff}"] = float(gains.mean()) if len(ranks) else 0.0
    return metrics


def ranks_in_scores(scores_UN: NDArray[np.floating], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """1-based rank of each target among all items by score, ties broken against the target; int64 [U]."""
    own = scores_UN[np.arange(len(targets)), targets]
    # A tie must not flatter a model that scores everything alike.
    ranks = (scores_UN >= own[:, None]).sum(axis=1)
    return np.where(np.isneginf(own), 0, ranks).astype(np.int64)


def ranks_in_lists(lists: Sequence[Sequence[int]], targets: NDArray[np.integer]) -> NDArray[np.int64]:
    """1-based rank of each target in its list, 0 where it is absent; int64 [U]."""
    return np.array(
        [
            ranked.index(target) + 1 if target in ranked else 0
            for ranked, target in zip(lists, targets.tolist(), strict=True)
        ],
        dtype=np.int64,
    )
