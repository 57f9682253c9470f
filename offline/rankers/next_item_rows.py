"""Histories and what came next: the rows that rankers of the next item are trained on."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.errors import TesseraError
from offline.rankers.ranking_data import JudgedSamples, RankingData

Positions = Literal["last", "all"]


def next_item_rows(data: RankingData, positions: str) -> JudgedSamples:
    """What users took after something: the last such item of each user, or all.

    Args:
        data: without labels.
        positions: `last` or `all`.

    Raises:
        TesseraError: the data has labels, nobody has two training items, or nobody's items are held out.
    """
    if data.split is None:
        raise TesseraError(
            f"{data.dataset.name}: has a label column; a-llmrec learns what comes next from histories without labels"
        )
    samples = data.samples["train"]
    rows = samples.select(samples.labels).with_history(1)
    if not len(rows) or not len(data.lists["valid"]):
        raise TesseraError(f"{data.dataset.name}: no user has the 4 events that training and validation need")
    if positions == "all":
        return rows
    return rows.select(np.append(rows.users[1:] != rows.users[:-1], True))


class NegativeItems:
    """Draws items that a user does not have in training.

    Args:
        data: without labels.
        seed: of the draws, which come one after the other.
    """

    def __init__(self, data: RankingData, seed: int) -> None:
        self._items = len(data.catalog)
        self._random = np.random.default_rng((seed, self._items))
        samples = data.samples["train"]
        liked = samples.select(samples.labels)
        self._had: dict[int, set[int]] = {}
        for user, item in zip(liked.users.tolist(), liked.items.tolist(), strict=True):
            self._had.setdefault(user, set()).add(item)

    def of(self, users: Sequence[int] | NDArray[np.integer], count: int) -> NDArray[np.int32]:
        """Distinct items for each user, fewer than `count` for none; int32 [len(users), count].

        Raises:
            TesseraError: a user has so many items that too few are left.
        """
        found = np.empty((len(users), count), np.int32)
        for row, user in enumerate(users):
            had = set(self._had.get(int(user), ()))
            if self._items - len(had) < count:
                raise TesseraError(f"{count} items that a user has not are needed; one has {len(had)} of {self._items}")
            at = 0
            while at < count:
                item = int(self._random.integers(self._items))
                if item not in had:
                    found[row, at] = item
                    had.add(item)
                    at += 1
        return found
