"""The rankers that a recipe can name, and how each is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model_store.errors import TesseraError
from offline.rankers.a_llmrec import ALLMRecRecipe, train_a_llmrec
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from offline.rankers.ranking_data import RankingData
from offline.rankers.sail_rec import SailRecRecipe, train_sail_rec
from offline.rankers.sella_rec import SellaRecRecipe, train_sella_rec
from offline.recipe import apply_override, build_settings, read_recipe

RECIPES_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class RankerKind:
    """One paper.

    Attributes:
        recipe: its settings.
        train: all its stages, on the training part; validations see the validation part.
    """

    recipe: type[RankerRecipe]
    train: Callable[[Any, RankingData, torch.device | str], TrainedRanker]


KINDS: dict[str, RankerKind] = {
    "sella-rec": RankerKind(SellaRecRecipe, train_sella_rec),
    "sail-rec": RankerKind(SailRecRecipe, train_sail_rec),
    "a-llmrec": RankerKind(ALLMRecRecipe, train_a_llmrec),
}


def load_ranker_recipe(name_or_file: str, overrides: list[str] | None = None) -> RankerRecipe:
    """Read a ranker's recipe by name or from a TOML file, then apply `key=value` overrides with dotted keys.

    Raises:
        TesseraError: no such recipe, not TOML, an unknown key, or a value of the wrong type.
    """
    content = read_recipe(name_or_file, RECIPES_FOLDER)
    for override in overrides or []:
        apply_override(content, override)
    kind = content.get("kind")
    if kind not in KINDS:
        raise TesseraError(f"recipe {name_or_file!r}: kind {kind!r} is no ranker; known: {', '.join(sorted(KINDS))}")
    recipe = build_settings(KINDS[kind].recipe, content)
    assert isinstance(recipe, RankerRecipe)
    return recipe


def train_ranker(recipe: RankerRecipe, data: RankingData, device: torch.device | str) -> TrainedRanker:
    """Train the ranker that a recipe describes.

    Raises:
        TesseraError: a setting does not fit the data.
    """
    return KINDS[recipe.kind].train(recipe, data, device)
