"""Balanced k-means: clusters whose sizes differ by at most one.

Follows the k-means of EAGER-LLM's released code (arXiv:2502.14735): centres start as the means of a random equal
partition; in each round the clusters, in random order, take their nearest points that nobody took yet, and the centres
move to what was taken. What we changed: where the points do not divide evenly, sizes differ by one, so that no point is
duplicated; a round can be worse than the one before, since whoever comes last takes what is left, so the best is kept;
and it is then improved by exchanges of points between two clusters, as long as these bring both nearer.

Shapes: N points, D size, K clusters.
"""

import numpy as np
from numpy.typing import NDArray

from model_store.errors import TesseraError

_STILL = 1e-6
"""Sum of the squared shifts of the centres that ends the rounds."""
_BLOCK = 16
"""Clusters whose distances to all points are held at a time."""
_ROWS = 1 << 13
"""Points whose distances to all clusters are held at a time."""
_GAIN = 1e-6
"""What an exchange must gain, relative to the mean squared length of a point; less is rounding."""


def balanced_kmeans(vectors_ND: NDArray[np.float32], clusters: int, iterations: int, seed: int) -> NDArray[np.int64]:
    """A cluster for every point; int64 [N], each of 0 .. K-1 floor(N / K) or ceil(N / K) times.

    Args:
        vectors_ND: the points; Euclidean distance counts.
        clusters: K. With fewer points than clusters some stay empty.
        iterations: rounds at most.
        seed: of the start and of the order of clusters.

    Raises:
        TesseraError: a vector is not finite.
    """
    if not np.isfinite(vectors_ND).all():
        bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        raise TesseraError(f"item codes: the vectors of {len(bad)} items are not finite; the first is item {bad[0]}")
    draw = np.random.default_rng(seed)
    # Centred, because the lengths below would swamp the distances of points far from the origin.
    points = np.ascontiguousarray(vectors_ND - vectors_ND.mean(axis=0), dtype=np.float32)
    count = len(points)
    sizes = np.full(clusters, count // clusters)
    sizes[: count % clusters] += 1
    labels = draw.permutation(np.repeat(np.arange(clusters), sizes))
    if count <= clusters:
        return labels
    centres = cluster_means(points, labels, clusters)
    best, best_spread = labels, _spread(centres, sizes)
    for _ in range(iterations):
        labels = _greedy_round(points, centres, sizes, draw)
        moved = cluster_means(points, labels, clusters)
        shift = float(((moved - centres) ** 2).sum())
        centres = moved
        if (spread := _spread(centres, sizes)) > best_spread:
            best, best_spread = labels, spread
        if shift < _STILL:
            break
    return _exchanged(points, best, clusters, iterations)


def cluster_means(points_ND: NDArray[np.float32], labels_N: NDArray[np.int64], clusters: int) -> NDArray[np.float32]:
    """The mean of each cluster's points, 0 where it has none; float32 [K, D]."""
    order = np.argsort(labels_N, kind="stable")
    counts = np.bincount(labels_N, minlength=clusters)
    filled = np.flatnonzero(counts)
    means = np.zeros((clusters, points_ND.shape[1]), dtype=np.float32)
    starts = np.cumsum(counts)[filled] - counts[filled]
    means[filled] = np.add.reduceat(points_ND[order], starts, axis=0) / counts[filled, None]
    return means


def _spread(centres_KD: NDArray[np.float32], sizes_K: NDArray[np.int64]) -> float:
    """Squared distance of centred points between clusters; what is within them is the rest, so more is better."""
    return float((sizes_K * (centres_KD.astype(np.float64) ** 2).sum(axis=1)).sum())


def _greedy_round(
    points_ND: NDArray[np.float32],
    centres_KD: NDArray[np.float32],
    sizes_K: NDArray[np.int64],
    draw: np.random.Generator,
) -> NDArray[np.int64]:
    labels = np.empty(len(points_ND), dtype=np.int64)
    left, left_points = np.arange(len(points_ND)), points_ND
    order = draw.permutation(len(centres_KD))
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        distance_KN = (left_points**2).sum(axis=1) / 2 - centres_KD[block] @ left_points.T
        free = np.arange(len(left))
        for cluster, distance_N in zip(block.tolist(), distance_KN, strict=True):
            size = int(sizes_K[cluster])
            if size < len(free):
                split = np.argpartition(distance_N[free], size - 1)
                taken, free = free[split[:size]], free[split[size:]]
            else:
                taken, free = free, free[:0]
            labels[left[taken]] = cluster
        free.sort()
        left, left_points = left[free], left_points[free]
    return labels


def _exchanged(
    points_ND: NDArray[np.float32], labels_N: NDArray[np.int64], clusters: int, iterations: int
) -> NDArray[np.int64]:
    """Let points of two clusters change places where both together come nearer to the two centres.

    Centres stay during a round, so that every exchange lessens the distance to them, and the means of what is then in a
    cluster lessen it further: no round is worse than the one before.
    """
    labels = labels_N.copy()
    least = _GAIN * float((points_ND**2).sum(axis=1).mean())
    for _ in range(iterations):
        wanted, gains = _wishes(points_ND, cluster_means(points_ND, labels, clusters), labels)
        # Of two clusters, those who want to go one way and those who want to go the other meet in the order of what
        # they gain, one of each at a time.
        upward = labels < wanted
        pair = np.minimum(labels, wanted) * clusters + np.maximum(labels, wanted)
        order = np.lexsort((-gains, upward, pair))
        way = pair[order] * 2 + upward[order]
        starts = np.flatnonzero(np.diff(way, prepend=-1))
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        meeting = pair[order] * len(order) + place
        up, down = order[upward[order]], order[~upward[order]]
        _, at_up, at_down = np.intersect1d(
            meeting[upward[order]], meeting[~upward[order]], assume_unique=True, return_indices=True
        )
        up, down = up[at_up], down[at_down]
        worth = gains[up] + gains[down] > least
        if not worth.any():
            break
        up, down = up[worth], down[worth]
        labels[up], labels[down] = labels[down], labels[up]
    return labels


def _wishes(
    points_ND: NDArray[np.float32], centres_KD: NDArray[np.float32], labels_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest other cluster of every point, and how much nearer it is than its own, squared; below 0 if farther."""
    wanted = np.empty(len(points_ND), dtype=np.int64)
    gains = np.empty(len(points_ND), dtype=np.float32)
    half_K = (centres_KD**2).sum(axis=1) / 2
    for start in range(0, len(points_ND), _ROWS):
        rows = slice(start, start + _ROWS)
        distance_RK = half_K - points_ND[rows] @ centres_KD.T
        at = np.arange(len(distance_RK))
        own = distance_RK[at, labels_N[rows]]
        distance_RK[at, labels_N[rows]] = np.inf
        wanted[rows] = distance_RK.argmin(axis=1)
        gains[rows] = 2 * (own - distance_RK[at, wanted[rows]])
    return wanted, gains
