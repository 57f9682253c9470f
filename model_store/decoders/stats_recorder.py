"""Takes the time of a batch of decodes and counts its steps.

Shapes: U users, B beams, C children.
"""

from collections import defaultdict
from itertools import pairwise
from time import perf_counter

import torch
from torch import Tensor

from model_store.decoders.decode_stats import DecodeStats, Stage

_CLOSED = float("-inf")


class StatsRecorder:
    """Takes the time of one batch and counts its steps. Costs microseconds, and no waiting for a device.

    Args:
        device: where the batch is computed. A GPU runs behind the program, so there its own clock is read, at the end.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._seconds: dict[Stage, float] = defaultdict(float)
        self._steps: dict[Stage, int] = defaultdict(int)
        self._events: list[tuple[Stage | None, torch.cuda.Event]] = []
        self._children_U: list[Tensor] = []
        self._left_U: list[Tensor] = []
        self._shares_U: list[Tensor] = []
        self._last = perf_counter()
        self.lap(None)

    def lap(self, stage: Stage | None, steps: int = 0) -> None:
        """What has passed since the last lap was this stage, with so many steps of the model in it; None: no stage."""
        if stage is not None and steps:
            self._steps[stage] += steps
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append((stage, event))
            return
        before, self._last = self._last, perf_counter()
        if stage is not None:
            self._seconds[stage] += self._last - before

    def masked(self, scores_UBC: Tensor, left_UBC: Tensor) -> None:
        """Count the children of one level: all that have a score, and those that have one when the rest is closed."""
        # Comparing is one pass over them; `isfinite` is four.
        self.masked_counts((scores_UBC > _CLOSED).sum((1, 2)), (left_UBC > _CLOSED).sum((1, 2)))

    def masked_counts(self, children_U: Tensor, left_U: Tensor) -> None:
        """The same, counted already; int64 [U]."""
        self._children_U.append(children_U)
        self._left_U.append(left_U)

    def search_ended(self) -> None:
        """All levels of one search have been counted."""
        children_U, left_U = torch.stack(self._children_U).sum(0), torch.stack(self._left_U).sum(0)
        self._shares_U.append(1 - left_U.double() / children_U)
        self._children_U, self._left_U = [], []

    def finish(self) -> DecodeStats:
        """The numbers. To be asked for when the answers are there, so that nothing is left to wait for."""
        for (_, begin), (stage, end) in pairwise(self._events):
            end.synchronize()
            if stage is not None:
                self._seconds[stage] += begin.elapsed_time(end) / 1000
        shares = torch.cat(self._shares_U).tolist() if self._shares_U else []
        return DecodeStats(dict(self._seconds), dict(self._steps), shares)
