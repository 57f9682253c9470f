"""A shop whose users keep to a few kinds of items: what a user takes next is told by what they took."""

from dataclasses import dataclass

import numpy as np

from model_store.collaborative.configs import CONFIGS, EncoderConfig
from offline.leave_one_out import EvaluationCases, Histories

_QUICK = {"epochs": 16, "size": 16, "learning_rate": 0.02}
_QUICK_OF_KIND = {
    **{kind: {"dropout": 0.1, "items_per_batch": 128} for kind in ("sasrec", "gru4rec", "nextitnet")},
    "din": {"epochs": 7, "learning_rate": 0.007, "batch": 16, "negatives": 15},
    "ncf": {"pairs_per_batch": 32, "negatives": 50},
}


@dataclass(frozen=True)
class ClusteredShop:
    """What encoders are trained on and chosen by."""

    train: Histories
    validation: EvaluationCases
    items: int


def clustered_shop(users: int = 150, clusters: int = 10, per_cluster: int = 10, seed: int = 0) -> ClusteredShop:
    """Users with 4 to 7 items of one cluster, the last of them held out."""
    rng = np.random.default_rng(seed)
    rows = [
        (rng.integers(clusters) * per_cluster + rng.permutation(per_cluster)[: rng.integers(4, 8)]).astype(np.int32)
        for _ in range(users)
    ]
    train = histories([row[:-1] for row in rows])
    targets = np.array([row[-1] for row in rows], np.int32)
    return ClusteredShop(train, EvaluationCases(train, targets, np.arange(users)), clusters * per_cluster)


def histories(rows: list[list[int]]) -> Histories:
    """Rows of item indices end to end."""
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    return Histories(offsets, np.concatenate(rows).astype(np.int32))


def quick_config(kind: str) -> EncoderConfig:
    """Settings of a training of a second or less."""
    return CONFIGS[kind](**_QUICK | _QUICK_OF_KIND.get(kind, {}))
