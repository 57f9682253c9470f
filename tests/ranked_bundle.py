"""A published version whose ranker is as random as its generator."""

from pathlib import Path

from model_store.bundle import Bundle, ModelStore
from offline.rankers.publish_ranker import publish_ranker
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from tests.model_store.rankers.small_rankers import small_sella

RECIPE = RankerRecipe(name="sella-small", kind="sella-rec")


def publish_with_ranker(store: Path, base: Bundle, seed: int = 0) -> Bundle:
    """The base's next extension, with a ranker; it is not activated."""
    trained = TrainedRanker(small_sella(catalog=base.catalog, seed=seed), {})
    return publish_ranker(ModelStore(store), base, RECIPE, "scratch:none", trained, {})
