"""The task examples that go with each batch of histories."""

import numpy as np

from offline.tasks.examples import TaskSampler
from offline.tasks.packing import PackedBatch, pack


class TaskBatches:
    """Draws and packs examples; the same ones for the same seed, epoch and batch, whoever asks.

    Args:
        sampler: what to draw from.
        share: tokens of task examples per token of histories.
        levels: tokens of an item.
        pad_token: fills rows.
        seed: of the draws.
    """

    def __init__(self, sampler: TaskSampler, share: float, levels: int, pad_token: int, seed: int) -> None:
        self._sampler, self._share, self._levels = sampler, share, levels
        self._pad_token, self._seed = pad_token, seed

    @property
    def families(self) -> tuple[str, ...]:
        """Families that are drawn from."""
        return self._sampler.families

    def beside(self, items: int, epoch: int, index: int) -> PackedBatch | None:
        """Examples for batch `index` of an epoch, which holds so many items; None where there are none."""
        # Counted from 1: a seed sequence does not tell a trailing zero from nothing, and batches are drawn from the
        # sequence without it.
        rng = np.random.default_rng((self._seed, epoch, index + 1))
        examples = self._sampler.draw(round(self._share * items * self._levels), rng)
        return pack(examples, self._sampler.max_length, self._pad_token) if examples else None
