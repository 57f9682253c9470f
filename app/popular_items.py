"""Popular items: the answer that always works."""

import numpy as np
from numpy.typing import NDArray

from app.prefix_quota import PrefixQuota

_FIRST_LOOK = 256


class PopularItems:
    """The catalogue in order of popularity, sorted once.

    Args:
        popularity: events per item; float32 [N].
        only_with_events: whether to leave out items without any.
    """

    def __init__(self, popularity: NDArray[np.float32], *, only_with_events: bool = False) -> None:
        self._popularity = popularity
        ranked = np.flatnonzero(popularity) if only_with_events else np.arange(len(popularity))
        self._order = ranked[np.argsort(-np.asarray(popularity[ranked]), kind="stable")].astype(np.int32)

    def top(
        self, n: int, mask: NDArray[np.bool_], hidden: frozenset[int] | set[int], quota: PrefixQuota | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `n` most popular items that pass, or all that do when there are fewer.

        Args:
            n: items wanted.
            mask: the catalogue-wide filter; bool [N].
            hidden: item indices this user must not see.
            quota: the room of each prefix, where there is a cap; it is looked at, not taken.

        Returns:
            Item indices, most popular first, and their event counts; int32 [K] and float32 [K], K <= n.
        """
        found: list[int] = []
        begin, length = 0, max(_FIRST_LOOK, 2 * (n + len(hidden)))
        # Looks grow, so a wide filter costs a short look and a narrow one a single pass in all.
        while len(found) < n and begin < len(self._order):
            look = self._order[begin : begin + length]
            found += [item for item in look[mask[look]].tolist() if item not in hidden]
            if quota is not None and found:
                # The first ones keep their places whatever comes after them.
                found = np.array(found)[quota.fitting(np.array(found))].tolist()
            begin, length = begin + length, 2 * length
        items = np.array(found[:n], dtype=np.int32)
        return items, self._popularity[items]

    def in_order(self, items: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """A few given items, most popular first, and their event counts."""
        popularity = self._popularity[items]
        order = np.lexsort((items, -popularity))
        return items[order], popularity[order]
