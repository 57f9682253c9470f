"""AUC, UAUC, and hits of the first place.

AUC is the share of pairs of a liked and a disliked sample in which the liked one scores higher, a tie counting half.
UAUC is the mean of the users' own AUCs, over users who have both kinds (CoLLM, arXiv:2310.19488).
"""

import numpy as np
from numpy.typing import NDArray


def auc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; NaN where only one label occurs.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    # The mean rank of all that score alike, from 1.
    ranks = (ends - (counts - 1) / 2)[inverse]
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def uauc(scores: NDArray[np.floating], labels: NDArray[np.bool_], users: NDArray[np.integer]) -> float:
    """Mean AUC over users who have both labels; NaN where nobody has.

    >>> uauc(np.array([0.9, 0.1, 0.2, 0.6, 0.5]), np.array([True, False, True, False, True]), np.array([1, 1, 2, 2, 3]))
    0.5
    """
    order = np.argsort(users, kind="stable")
    _, first = np.unique(users[order], return_index=True)
    own = [auc(scores[rows], labels[rows]) for rows in np.split(order, first[1:])]
    known = [value for value in own if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def first_place_ranks(scores_nK: NDArray[np.floating]) -> NDArray[np.int64]:
    """1-based rank of each row's first candidate, ties against it; int64 [n].

    >>> first_place_ranks(np.array([[0.3, 0.1, 0.2], [0.3, 0.3, 0.1]]))
    array([1, 2])
    """
    ranks: NDArray[np.int64] = (scores_nK >= scores_nK[:, :1]).sum(axis=1).astype(np.int64)
    return ranks
