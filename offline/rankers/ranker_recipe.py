"""What a ranker's recipe is, and what training by one gives."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from model_store.rankers.ranker import Ranker
from offline.rankers.evaluate_ranker import Scorer


@dataclass(frozen=True, kw_only=True)
class RankerRecipe:
    """Settings that every ranker's recipe has; a paper's recipe adds its stages."""

    name: str
    kind: str
    """Which paper's ranker it makes: a name of `kinds.KINDS`."""
    seed: int = 0
    negatives: int = 1
    """Items drawn for each liked one, where the data has no labels."""

    def as_dict(self) -> dict[str, Any]:
        """Every setting, for the manifest."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainedRanker:
    """What training gives.

    Attributes:
        ranker: its language model is a plain checkpoint, adapters merged.
        reports: what happened in each stage.
        baselines: what was trained on the way and can be measured beside it, by name.
    """

    ranker: Ranker
    reports: dict[str, Any]
    baselines: dict[str, Scorer] = field(default_factory=dict)
