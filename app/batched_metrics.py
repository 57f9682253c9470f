"""Metrics of what happens at every answer: noted in a list, counted some hundredths of a second later in one go.

prometheus_client takes a lock and walks the buckets for each observation, which costs an answer more than its JSON.
Belongs to one event loop; without a running one, everything is counted at once.
"""

import asyncio

import numpy as np
from prometheus_client import Counter, Histogram

COUNTED_AFTER_S = 0.02


class MetricBatches:
    """What waits to be counted."""

    def __init__(self) -> None:
        self.due = False
        self._parts: list[BatchedCounter | BatchedHistogram] = []

    def counter(self, child: Counter) -> "BatchedCounter":
        """Count by a counter, or one of its children, from now on."""
        part = BatchedCounter(self, child)
        self._parts.append(part)
        return part

    def histogram(self, child: Histogram) -> "BatchedHistogram":
        """Observe by a histogram, or one of its children, from now on."""
        part = BatchedHistogram(self, child)
        self._parts.append(part)
        return part

    def begin(self) -> None:
        """Note that something waits."""
        self.due = True
        try:
            asyncio.get_running_loop().call_later(COUNTED_AFTER_S, self.count)
        except RuntimeError:
            self.count()

    def count(self) -> None:
        """Count all that waits."""
        self.due = False
        for part in self._parts:
            part.count()


class BatchedCounter:
    """Made by `MetricBatches`."""

    def __init__(self, batches: MetricBatches, child: Counter) -> None:
        self._batches = batches
        self._child = child
        self._waiting: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self._waiting += amount
        if not self._batches.due:
            self._batches.begin()

    def count(self) -> None:
        """Count what waits."""
        if self._waiting:
            self._child.inc(self._waiting)
            self._waiting = 0


class BatchedHistogram:
    """Made by `MetricBatches`."""

    def __init__(self, batches: MetricBatches, child: Histogram) -> None:
        self._batches = batches
        # The library has no way to add several observations.
        self._bounds = np.array(child._upper_bounds)
        self._buckets = child._buckets
        self._sum = child._sum
        self._waiting: list[float] = []

    def observe(self, amount: float) -> None:
        """Note one observation."""
        self._waiting.append(amount)
        if not self._batches.due:
            self._batches.begin()

    def count(self) -> None:
        """Count what waits."""
        if not self._waiting:
            return
        waiting, self._waiting = np.array(self._waiting), []
        counts = np.bincount(np.searchsorted(self._bounds, waiting), minlength=len(self._buckets))
        for bucket in np.flatnonzero(counts).tolist():
            self._buckets[bucket].inc(int(counts[bucket]))
        self._sum.inc(float(waiting.sum()))
