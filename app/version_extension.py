"""Publish a version with new items, in a process of its own: for a large catalogue it takes seconds of a core.

python -m app.version_extension < WORK > OUTCOME

Both are JSON, see `ExtensionWork` and `ExtensionOutcome`. It publishes and activates nothing.
"""

import base64
import os
import sys
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from model_store.bundle import MODEL_FOLDERS, ModelStore
from model_store.catalog import Catalog
from model_store.code_assignment import packed_codes
from model_store.errors import TesseraError
from model_store.line_of_versions import known_places

MADE_BY = "service"
"""Under "made_by" in the notes of versions that are published here."""
_NICENESS = 10


class NewItem(BaseModel):
    """An item to add: what is known of it, and its place (see `item_records.Place`)."""

    item_id: str
    title: str
    text: str
    categories: list[str]
    price: float | None
    attributes: dict[str, str]
    in_stock: bool
    code: list[int]
    vector: str


class ExtensionWork(BaseModel):
    """What to publish: the items that the base does not have."""

    store: str
    base: str
    items: list[NewItem]


class ExtensionOutcome(BaseModel):
    """What became of it.

    Attributes:
        version: what was published, None where nothing was.
        conflicts: items left out, because another version has given their code to another item.
        trouble: why nothing was published.
    """

    version: str | None = None
    conflicts: list[str] = []
    trouble: str | None = None


def extend(work: ExtensionWork) -> ExtensionOutcome:
    """Publish the extension; every expected trouble is in the outcome."""
    # Takes a third of a second to import; the API process needs the rest of this module without it.
    from model_store.publish_extension import publish_extension

    store = ModelStore(Path(work.store))
    try:
        base = store.open(work.base, skip=MODEL_FOLDERS)
        items = [item for item in work.items if item.item_id not in base.catalog]
        known = known_places(store, base, [item.item_id for item in items])
        codes = np.array([item.code for item in items], dtype=np.uint8).reshape(len(items), -1)
        # What a version beside the base says of an item is so.
        codes[known.placed_M] = known.codes_ML[known.placed_M]
        free = known.placed_M | ~np.isin(packed_codes(codes), known.taken)
        conflicts = [item.item_id for item, is_free in zip(items, free.tolist(), strict=True) if not is_free]
        if not free.any():
            return ExtensionOutcome(conflicts=conflicts)
        vectors = np.array([np.frombuffer(base64.b64decode(item.vector), "<f4") for item in items], dtype=np.float32)
        vectors[known.placed_M] = known.vectors_MD[known.placed_M]
        catalog = base.catalog.joined(_catalog(items).select(np.flatnonzero(free)))
        notes = {"added": int(free.sum()), "updated": 0, "made_by": MADE_BY}
        bundle = publish_extension(store, base, catalog, codes[free], vectors[free], notes)
    except TesseraError as error:
        return ExtensionOutcome(trouble=f"{type(error).__name__}: the served version cannot be extended")
    except OSError as error:
        return ExtensionOutcome(trouble=f"the model store cannot be written: {error.strerror}")
    return ExtensionOutcome(version=bundle.version, conflicts=conflicts)


def _catalog(items: list[NewItem]) -> Catalog:
    return Catalog(
        item_ids=tuple(item.item_id for item in items),
        titles=tuple(item.title for item in items),
        texts=tuple(item.text for item in items),
        categories=tuple(tuple(item.categories) for item in items),
        prices=np.array([np.nan if item.price is None else item.price for item in items], dtype=np.float32),
        attributes=tuple(item.attributes for item in items),
        available=np.array([item.in_stock for item in items], dtype=np.bool_),
    )


def main() -> None:
    """Read the work, do it, and tell."""
    os.nice(_NICENESS)
    outcome = extend(ExtensionWork.model_validate_json(sys.stdin.buffer.read()))
    sys.stdout.write(outcome.model_dump_json())


if __name__ == "__main__":
    main()
