"""Train a ranker and measure it beside the baselines of the same run."""

from dataclasses import dataclass
from typing import Any

import torch

from model_store.bundle import Bundle
from model_store.collaborative.configs import SASRecConfig
from model_store.errors import TesseraError
from model_store.rankers.ranker_files import load_ranker
from offline.progress import say
from offline.rankers.aligned_factors import AlignmentConfig, factor_scorer, train_factors
from offline.rankers.evaluate_ranker import Scorer, evaluate_ranker
from offline.rankers.kinds import train_ranker
from offline.rankers.publish_ranker import check_base
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from offline.rankers.ranking_data import Part, RankingData
from offline.rankers.sequential_baseline import train_sequential

BASELINES = ("mf", "sasrec")


@dataclass(frozen=True)
class RankerStudy:
    """Metrics by system."""

    dataset: str
    protocol: str
    part: Part
    language_model: str
    seed: int
    systems: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera rank evaluate --json` prints."""
        return dict(vars(self))


def study_ranker(
    recipe: RankerRecipe,
    data: RankingData,
    part: Part,
    device: torch.device | str,
    *,
    baselines: tuple[str, ...] = BASELINES,
    most: int | None = None,
) -> tuple[RankerStudy, TrainedRanker]:
    """Train the ranker and baselines on the training part, and measure all of them on a held-out one.

    Args:
        recipe: of the ranker.
        data: what to train and measure on.
        part: the held-out part.
        device: where to compute.
        baselines: names from `BASELINES`; those that the recipe trains on its way come by themselves.
        most: measure so many samples or lists; all by default.
    """
    scorers = {name: _baseline(name, data, recipe.seed, device) for name in baselines}
    trained = train_ranker(recipe, data, device)
    scorers |= trained.baselines
    scorers[recipe.name] = trained.ranker.rank
    systems = {
        name: evaluate_ranker(scorer, data, part, most=most, seed=recipe.seed, what=f"{name}, {part}")
        for name, scorer in scorers.items()
    }
    study = RankerStudy(data.dataset.name, data.protocol, part, language_model_of(recipe), recipe.seed, systems)
    say(f"measured {', '.join(systems)} on {data.dataset.name}, {part}")
    return study, trained


def study_published(
    bundle: Bundle, data: RankingData, part: Part, device: torch.device | str, *, most: int | None = None
) -> RankerStudy:
    """Measure the ranker of a published version.

    Raises:
        TesseraError: it has none, or was trained on other data.
    """
    if bundle.ranker_path is None or bundle.manifest.ranker is None:
        raise TesseraError(
            f"version {bundle.version} has no ranker; `tessera rank train` publishes one with it, or pass --recipe"
        )
    check_base(bundle, data.dataset)
    record = bundle.manifest.ranker
    ranker = load_ranker(bundle.ranker_path, bundle.catalog, device)
    metrics = evaluate_ranker(ranker.rank, data, part, most=most, what=f"{record.recipe}, {part}")
    seed = int(record.config.get("seed", 0))
    return RankerStudy(data.dataset.name, data.protocol, part, record.language_model, seed, {record.recipe: metrics})


def language_model_of(recipe: RankerRecipe) -> str:
    """What the language model of a recipe is made from."""
    return str(recipe.as_dict()["language_model"]["llm"])


def _baseline(name: str, data: RankingData, seed: int, device: torch.device | str) -> Scorer:
    if name == "sasrec":
        return train_sequential(data, SASRecConfig(), seed, device)[0]
    nothing = torch.zeros(len(data.catalog), 1)
    plain = AlignmentConfig(weight=0.0)
    return factor_scorer(train_factors(data, nothing, plain, seed, device, "factorization").tables)
