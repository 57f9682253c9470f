"""Splits every user's history: the last item is the test target, the second last the validation target.

A user's last two items never reach training. That is kept by construction: `Split.train` is a copy that holds no other
event, and the histories of evaluation cases are put together from it and the held-out targets.
Shapes: U users of the data set, n users with at least 3 events.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offline.interactions import MIN_EVENTS_TO_EVALUATE, Dataset


@dataclass(frozen=True, eq=False)
class Histories:
    """Item indices of many histories end to end, oldest first: history i is items[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.items[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, eq=False)
class EvaluationCases:
    """What to predict, and from what."""

    histories: Histories
    """n histories, each all that came before its target."""
    targets: NDArray[np.int32]
    """Shape (n,), the item that came next."""
    users: NDArray[np.int64]
    """Shape (n,), index of the user in the data set."""

    def select(self, rows: NDArray[np.int64]) -> "EvaluationCases":
        """Those of some rows, in the order of these."""
        histories = [self.histories[row] for row in rows]
        offsets = np.cumsum([0, *(len(history) for history in histories)]).astype(np.int64)
        items = np.concatenate([np.empty(0, np.int32), *histories]).astype(np.int32)
        return EvaluationCases(Histories(offsets, items), self.targets[rows], self.users[rows])


@dataclass(frozen=True, eq=False)
class Split:
    """A data set in training, validation and test."""

    train: Histories
    """All U users in order: histories without their last two items, or whole when shorter than 3."""
    _users: NDArray[np.int64]
    _targets: dict[Literal["valid", "test"], NDArray[np.int32]]

    def evaluation_cases(self, split_name: Literal["valid", "test"]) -> EvaluationCases:
        """The n cases of a split: `valid` predicts the second last item from those before, `test` the last one.

        A test history ends with the validation target, which the user had met by then.
        """
        lengths = np.diff(self.train.offsets)[self._users]
        extra = int(split_name == "test")
        offsets = np.concatenate([[0], np.cumsum(lengths + extra)]).astype(np.int64)
        items = np.empty(offsets[-1], np.int32)
        from_train = np.ones(len(items), np.bool_)
        if extra:
            from_train[offsets[1:] - 1] = False
            items[~from_train] = self._targets["valid"]
        evaluated = np.zeros(len(self.train), np.bool_)
        evaluated[self._users] = True
        items[from_train] = self.train.items[np.repeat(evaluated, np.diff(self.train.offsets))]
        return EvaluationCases(Histories(offsets, items), self._targets[split_name], self._users)


def leave_one_out(dataset: Dataset) -> Split:
    """Holds out the last two items of every user who has at least 3 events; the others train whole."""
    lengths = np.diff(dataset.offsets)
    users = np.flatnonzero(lengths >= MIN_EVENTS_TO_EVALUATE)
    ends = dataset.offsets[users + 1]
    is_train = np.ones(len(dataset.items), np.bool_)
    is_train[ends - 1] = False
    is_train[ends - 2] = False
    train_lengths = lengths.copy()
    train_lengths[users] -= 2
    offsets = np.concatenate([[0], np.cumsum(train_lengths)]).astype(np.int64)
    return Split(
        train=Histories(offsets, dataset.items[is_train]),
        _users=users.astype(np.int64),
        _targets={"valid": dataset.items[ends - 2], "test": dataset.items[ends - 1]},
    )
