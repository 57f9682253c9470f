"""The catalogue by age, newest first: for shoppers who come back, and for items that no model knows yet."""

from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog

_TIME_ATTRIBUTES = ("timestamp", "created_at")


class LatestItems:
    """Items by the time in their attribute `timestamp` or `created_at`; those without one by index, later ones first.

    Items that have no time come after all that have one.

    Args:
        catalog: the items; N of them.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def top(self, n: int, mask: NDArray[np.bool_], hidden: set[int]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The `n` newest items that pass, or all that do when there are fewer.

        Args:
            n: items wanted.
            mask: the catalogue-wide filter; bool [N].
            hidden: item indices not to show.

        Returns:
            Item indices, newest first, and their times in Unix seconds, 0 where unknown; int32 [K] and float64 [K].
        """
        times, order = self._by_age
        passing = mask[order]
        passing[np.isin(order, list(hidden))] = False
        items = order[np.flatnonzero(passing)[:n]]
        return items, times[items]

    def prepare(self) -> None:
        """Sort, which the first request would wait for."""
        _ = self._by_age

    @cached_property
    def _by_age(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        times = np.array([time_of(attributes) for attributes in self._catalog.attributes], dtype=np.float64)
        indices = np.arange(len(times))
        return times, np.lexsort((-indices, -times)).astype(np.int32)


def time_of(attributes: dict[str, str]) -> float:
    """Unix seconds, 0 where there is no time or none that can be read."""
    for name in _TIME_ATTRIBUTES:
        text = str(attributes.get(name, "")).strip()
        if not text:
            continue
        try:
            seconds = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                continue
            seconds = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
        if np.isfinite(seconds):
            return max(seconds, 0.0)
    return 0.0
