"""Few-shot training: a data set of which only some users may be trained on; everybody is still evaluated."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.errors import TesseraError
from offline.leave_one_out import EvaluationCases, Histories, Split
from offline.rankers.ranking_data import RankingData


@dataclass(frozen=True, eq=False)
class FewUsersSplit(Split):
    """A split whose training part holds some users' histories alone."""

    whole: Split

    @classmethod
    def of(cls, whole: Split, users: NDArray[np.int64]) -> "FewUsersSplit":
        """The split in which these users are trained on."""
        rows = [whole.train[int(user)] for user in users]
        offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
        return cls(Histories(offsets, np.concatenate(rows)), whole._users, whole._targets, whole)

    def evaluation_cases(self, split_name: Literal["valid", "test"]) -> EvaluationCases:
        """Those of the whole."""
        return self.whole.evaluation_cases(split_name)


def with_few_users(data: RankingData, count: int, seed: int) -> RankingData:
    """The same data with `count` training users, drawn by the seed from those with two training items or more.

    Raises:
        TesseraError: the data has labels, or not as many such users.
    """
    if data.split is None:
        raise TesseraError(f"{data.dataset.name}: has a label column; few-shot training is of histories without labels")
    able = np.flatnonzero(np.diff(data.split.train.offsets) > 1)
    if count > len(able):
        raise TesseraError(f"{data.dataset.name}: {len(able)} users have two training items, {count} are asked for")
    chosen = np.sort(np.random.default_rng(seed).permutation(able)[:count])
    train = data.samples["train"]
    samples = {**data.samples, "train": train.select(np.isin(train.users, chosen))}
    return dataclasses.replace(data, samples=samples, split=FewUsersSplit.of(data.split, chosen))
