"""Balanced assignment by optimal transport, and what it is for: last-level entries of items that share a code.

Follows LC-Rec (arXiv:2311.09049), which re-assigns the last level of colliding items by Sinkhorn's algorithm. What we
changed: where there are more entries than items, a slack row takes what is left of them, so that balance is a bound
on an entry's load and not a duty to fill every entry, near or far; and the transport plan is rounded under that bound,
so that one round is enough.

Shapes: N items, C entries, L levels, D vector size.
"""

import numpy as np
from numpy.typing import NDArray

_EPSILON = 0.003
"""Entropy, relative to the range of the distances: near enough to a hard assignment."""
_ITERATIONS = 50


def separate_colliding(
    codes_NL: NDArray[np.uint8], vectors_ND: NDArray[np.float32], codebooks_LCD: NDArray[np.float32], entries: int
) -> tuple[NDArray[np.uint8], int]:
    """Spread the items that share a code over the free last-level entries of their prefix; the others stay.

    Items of a prefix with fewer free entries than colliding items still share codes afterwards.

    Returns:
        The codes, and how many of them changed.
    """
    codes = codes_NL.copy()
    _, bucket, sizes = np.unique(codes_NL, axis=0, return_inverse=True, return_counts=True)
    colliding = sizes[bucket.ravel()] > 1
    _, prefix, members = np.unique(codes_NL[:, :-1], axis=0, return_inverse=True, return_counts=True)
    by_prefix = np.split(np.argsort(prefix.ravel(), kind="stable"), np.cumsum(members)[:-1])
    for number in np.unique(prefix.ravel()[colliding]):
        group = by_prefix[number]
        sharing = group[colliding[group]]
        free = np.setdiff1d(np.arange(entries), codes_NL[group[~colliding[group]], -1])
        if len(free):
            before = codebooks_LCD[np.arange(codes.shape[1] - 1), codes_NL[sharing, :-1]].sum(axis=1)
            residual = vectors_ND[sharing] - before
            distance = ((residual[:, None] - codebooks_LCD[-1, free]) ** 2).sum(axis=-1)
            codes[sharing, -1] = free[balanced_assignment(distance)]
    return codes, int((codes != codes_NL).any(axis=1).sum())


def balanced_assignment(distance_NC: NDArray[np.floating]) -> NDArray[np.int64]:
    """An entry for every item, none with more than ceil(N / C) items, at little total distance; int64 [N]."""
    items, entries = distance_NC.shape
    plan = _transport_plan(distance_NC)
    room = np.full(entries, -(-items // entries))
    assigned = np.empty(items, dtype=np.int64)
    # The most certain first: whoever comes late takes what is left.
    for item in np.argsort(-plan.max(axis=1), kind="stable"):
        assigned[item] = np.where(room > 0, plan[item], -np.inf).argmax()
        room[assigned[item]] -= 1
    return assigned


def _transport_plan(distance_NC: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log masses that items send to entries: one unit an item, at most max(1, N / C) into an entry."""
    items, entries = distance_NC.shape
    reach = max(float(np.ptp(distance_NC)), 1e-12)
    affinity = -(distance_NC.astype(np.float64) - distance_NC.min()) / (reach * _EPSILON)
    row_mass = np.zeros(items)
    if entries > items:
        affinity = np.vstack([affinity, np.zeros(entries)])
        row_mass = np.append(row_mass, np.log(entries - items))
    column_mass = np.log(max(1.0, items / entries))
    rows, columns = np.zeros(len(affinity)), np.zeros(entries)
    for _ in range(_ITERATIONS):
        rows = row_mass - np.logaddexp.reduce(affinity + columns, axis=1)
        columns = column_mass - np.logaddexp.reduce(affinity + rows[:, None], axis=0)
    plan: NDArray[np.float64] = (affinity + rows[:, None] + columns)[:items]
    return plan
