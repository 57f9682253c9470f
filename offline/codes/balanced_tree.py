"""A two-level tree over the vectors of one source, all nodes of a level about equally large: two code tokens an item.

Follows the hierarchical balanced k-means of EAGER-LLM (arXiv:2502.14735). What we changed: the released code fills the
tree up with duplicates to K^2 points, here sizes are rounded instead; and there a child's label is an arbitrary slot of
its parent (`random`), while `matched` gives children that lie in the same direction of their parents the same label, so
that a second token means something similar under every first one.

Shapes: N items, D size, K branches of a node.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from offline.codes.balanced_kmeans import balanced_kmeans, cluster_means

_WORTH_WHILE = 0.01
"""Share by which a round of matching must bring children nearer to the shared centres for another one to follow."""


@dataclass(frozen=True)
class BalancedTree:
    """Where every item is in the tree.

    Attributes:
        labels_N2: uint8 [N, 2], the child of the root and the child of that. Up to K^2 items no two share both; beyond
            that at most ceil(ceil(N / K) / K) do.
        centres_2KD: float32 [2, K, D], the mean of a label's items; at the second level of what is left of them when
            their parent's centre is taken away. Labels that nobody has are 0 where labels are random, and else the
            place that was kept for them.
    """

    labels_N2: NDArray[np.uint8]
    centres_2KD: NDArray[np.float32]


def balanced_tree(
    vectors_ND: NDArray[np.float32], branching: int, iterations: int, seed: int, labels: str
) -> BalancedTree:
    """Split all items in K clusters of about one size, and each of these in K more, or in single items if it has few.

    Args:
        vectors_ND: of one source.
        branching: K, at most 256.
        iterations: rounds of k-means at most.
        seed: of everything drawn.
        labels: `matched` or `random`.

    Raises:
        TesseraError: a vector is not finite.
    """
    first = balanced_kmeans(vectors_ND, branching, iterations, seed)
    centres = cluster_means(vectors_ND, first, branching)
    residual = vectors_ND - centres[first]
    families = np.split(np.argsort(first, kind="stable"), np.cumsum(np.bincount(first, minlength=branching))[:-1])
    children = []
    for parent, family in enumerate(families):
        if len(family) <= branching:
            children.append(np.arange(len(family)))
        else:
            children.append(balanced_kmeans(residual[family], branching, iterations, seed + 1 + parent))
    means = [
        cluster_means(residual[family], child, int(child.max(initial=-1)) + 1)
        for family, child in zip(families, children, strict=True)
    ]
    if labels == "matched":
        names, centres_of_label = _matched(means, branching, iterations, seed)
    else:
        draw = np.random.default_rng(seed)
        names = [draw.permutation(branching)[: len(mean)] for mean in means]
        centres_of_label = np.zeros_like(centres)
    second = np.empty_like(first)
    for family, child, name in zip(families, children, names, strict=True):
        second[family] = name[child]
    taken = np.bincount(second, minlength=branching) > 0
    centres_of_label[taken] = cluster_means(residual, second, branching)[taken]
    return BalancedTree(np.stack([first, second], axis=1).astype(np.uint8), np.stack([centres, centres_of_label]))


def _matched(
    means: list[NDArray[np.float32]], branching: int, iterations: int, seed: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.float32]]:
    """Labels of each parent's children, no two alike, as near as they can be to centres that all parents share.

    Args:
        means: per parent, its children's centres less its own.
        branching, iterations, seed: as for the tree.

    Returns:
        Per parent the labels of its children, and the shared centres, [K, D].
    """
    everything = np.concatenate(means)
    # Balanced too, so that no label starts as the place of a few children that are like no other.
    centres = cluster_means(everything, balanced_kmeans(everything, branching, iterations, seed), branching)
    ends = np.cumsum([len(mean) for mean in means])[:-1]
    before = np.inf
    for _ in range(max(1, iterations)):
        # The children's own lengths do not change which assignment is best.
        costs = np.split((centres**2).sum(axis=1) - 2 * everything @ centres.T, ends)
        names = np.concatenate([linear_sum_assignment(cost)[1] for cost in costs])
        taken = np.bincount(names, minlength=branching) > 0
        centres[taken] = cluster_means(everything, names, branching)[taken]
        error = float(((everything - centres[names]) ** 2).sum())
        if error >= before * (1 - _WORTH_WHILE):
            break
        before = error
    return np.split(names, ends), centres
