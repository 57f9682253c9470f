"""Publish a ranker beside the generator of a published version.

The new version is an extension of that version by no items: it shares its files, its codes and its cached lists.
"""

from datetime import UTC, datetime
from typing import Any

from model_store.bundle import Bundle, ModelStore
from model_store.errors import TesseraError
from model_store.manifest import FORMAT_VERSION, RANKER_FOLDER, RankerRecord, describe_files
from model_store.publish_extension import link_or_copy
from model_store.rankers.ranker_files import save_ranker
from offline.interactions import Dataset
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker


def check_base(base: Bundle, dataset: Dataset) -> None:
    """See that a ranker of this data fits a version, before it is trained.

    Raises:
        TesseraError: the version was made from other data.
    """
    known = base.catalog.item_ids[: len(dataset.catalog)]
    if base.manifest.data_fingerprint != dataset.fingerprint or known != dataset.catalog.item_ids:
        raise TesseraError(
            f"version {base.version} was trained on {base.manifest.dataset!r} "
            f"({base.manifest.data_fingerprint[:12]}), this is {dataset.name!r} ({dataset.fingerprint[:12]}); "
            "a ranker needs a generator of the same data: pass --version, or train one first with `tessera train`"
        )


def publish_ranker(
    store: ModelStore,
    base: Bundle,
    recipe: RankerRecipe,
    language_model: str,
    trained: TrainedRanker,
    metrics: dict[str, Any],
) -> Bundle:
    """Publish the next version of a generator's line, with this ranker in the place of any other.

    Args:
        store: where the base is published.
        base: an opened version whose data the ranker was trained on (see `check_base`).
        recipe: what it was trained by.
        language_model: what its language model was made from.
        trained: the ranker.
        metrics: what was measured.
    """
    version = store.next_extension(base)
    with store.publishing(version) as (folder, finish):
        shared = {name: one for name, one in base.manifest.files.items() if not name.startswith(RANKER_FOLDER)}
        for name in shared:
            link_or_copy(base.path / name, folder / name)
        save_ranker(folder / RANKER_FOLDER.rstrip("/"), trained.ranker)
        return finish(
            base.manifest.model_copy(
                update={
                    "format_version": FORMAT_VERSION,
                    "version": version,
                    "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
                    "ranker": RankerRecord(
                        recipe=recipe.name,
                        kind=trained.ranker.kind,
                        language_model=language_model,
                        config=recipe.as_dict(),
                        metrics=metrics | {"stages": trained.reports},
                    ),
                    "files": describe_files(folder, known=shared),
                    "extends": base.version,
                    "cache_version": base.cache_version,
                }
            )
        )
