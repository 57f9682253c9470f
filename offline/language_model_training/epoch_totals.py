"""What one epoch cost, by task family.

Shapes: F task families.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from offline.language_model_training.step_loss import BatchLosses
from offline.processes import Processes
from offline.tasks.packing import PackedBatch
from offline.tasks.task_mix import FAMILIES


class _Part(NamedTuple):
    """One process's share of an epoch."""

    losses: list[float]
    contrasts: list[float]
    items: list[int]
    task_sums: list[float]
    task_examples: list[int]
    task_tokens: int


class EpochTotals:
    """Losses of an epoch's batches. They stay on the device until its end: reading one waits for all before it."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._contrasts: list[Tensor] = []
        self._items: list[int] = []
        self._task_sums: list[Tensor] = []
        self._task_examples = np.zeros(len(FAMILIES), dtype=np.int64)
        self._task_tokens = 0

    def add(self, losses: BatchLosses, items: int, tasks: PackedBatch | None) -> None:
        """Count a batch of so many items in histories, and the examples beside them."""
        self._losses.append(losses.sequential)
        self._contrasts.append(losses.contrast)
        self._items.append(items)
        if tasks is not None:
            families = [FAMILIES.index(example.family) for example in tasks.examples]
            self._task_sums.append(losses.task_sums_F)
            self._task_examples += np.bincount(families, minlength=len(FAMILIES))
            self._task_tokens += sum(len(example.tokens) for example in tasks.examples)

    def record(self, processes: Processes, levels: int) -> dict[str, float]:
        """Mean losses over the batches of all processes, and the tokens in them; the same in every process."""
        sums = torch.stack(self._task_sums).double().sum(0).tolist() if self._task_sums else [0.0] * len(FAMILIES)
        losses, contrasts = (torch.stack(of).tolist() if of else [] for of in (self._losses, self._contrasts))
        parts = processes.gather(
            _Part(losses, contrasts, self._items, sums, self._task_examples.tolist(), self._task_tokens)
        )
        items = [count for part in parts for count in part.items]
        record = {
            "loss": float(np.average([loss for part in parts for loss in part.losses], weights=items)),
            "tokens": float(sum(items) * levels),
        }
        contrast = [loss for part in parts for loss in part.contrasts]
        if any(contrast):
            record["loss_contrast"] = float(np.average(contrast, weights=items))
        task_sums = np.sum([part.task_sums for part in parts], axis=0)
        task_examples = np.sum([part.task_examples for part in parts], axis=0)
        for family, total, examples in zip(FAMILIES, task_sums, task_examples, strict=True):
            if examples:
                record[f"loss_{family}"] = float(total / examples)
        if task_examples.any():
            record["task_tokens"] = float(sum(part.task_tokens for part in parts))
        return record
