"""Add items to a published version without training: it is extended, and the extension is published.

A new item's text vector goes through the encoders and codebooks of the version and gives its code and its place among
the neighbours; the language model, which never met it, knows it by the prefixes it shares with others. Nobody has taken
it yet, so its popularity is 0. Items that are there already get the new title, price, availability and whatever else is
said of them, and keep index and code.

Shapes: N items of the base, M new items, L levels, X text size, D vector size.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle, ModelStore
from model_store.catalog import Catalog
from model_store.line_of_versions import known_places
from model_store.publish_extension import publish_extension
from model_store.quantizer import ItemQuantizer
from model_store.text_encoder import text_config
from offline.column_names import ColumnNames
from offline.embed_items import embed_items
from offline.item_additions import read_additions
from offline.rejected_rows import RejectedRow


@dataclass(frozen=True)
class ItemsAdded:
    """What `tessera items add` did.

    Attributes:
        bundle: the extension, or the base where the file says nothing new.
        added: items the base did not have.
        updated: items of the base of which something changed.
        accepted: items the file is sound about, those included of which it says nothing new.
        rejected: rows that were not taken.
    """

    bundle: Bundle
    added: int
    updated: int
    accepted: int
    rejected: tuple[RejectedRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """What `tessera items add --json` prints beside the rejected rows."""
        return {
            "version": self.bundle.version,
            "extends": self.bundle.manifest.extends,
            "added": self.added,
            "updated": self.updated,
            "items": self.bundle.manifest.items,
            "accepted": self.accepted,
        }


def add_items_of_file(store: ModelStore, base: Bundle, path: Path, columns: ColumnNames) -> ItemsAdded:
    """Publish the base with the sound rows of a file (see `offline.item_additions`).

    Raises:
        DataError: the file cannot be read or has no sound row; nothing is published then.
        TesseraError: as for `add_items`.
    """
    additions = read_additions(path, columns, base.catalog)
    notes = {"file": path.name, "fingerprint": additions.fingerprint}
    bundle = add_items(store, base, additions.catalog, notes)
    if bundle is base:
        return ItemsAdded(base, 0, 0, len(additions.catalog), additions.rejected)
    extension = bundle.manifest.metrics["extension"]
    return ItemsAdded(bundle, extension["added"], extension["updated"], len(additions.catalog), additions.rejected)


def add_items(store: ModelStore, base: Bundle, additions: Catalog, notes: dict[str, Any] | None = None) -> Bundle:
    """Publish the next extension of a version; the base itself when nothing would change.

    Args:
        store: where the base is published.
        base: a version, which may be an extension.
        additions: new items, and items of the base with what is known now: the title and the availability replace the
            old ones; a price, text or categories do where there are any; attributes are added.
        notes: where the additions come from, for the manifest.

    Raises:
        TesseraError: the version's quantizer or text encoder cannot be used, or no code is left near an item.
    """
    known = np.array([item_id in base.catalog for item_id in additions.item_ids], dtype=np.bool_)
    new = additions.select(np.flatnonzero(~known))
    catalog, updated = _updated(base.catalog, additions.select(np.flatnonzero(known)))
    if not len(new) and not updated:
        return base
    codes_ML, vectors_MD = _place(store, base, new)
    counts = {"added": len(new), "updated": updated}
    return publish_extension(store, base, catalog.joined(new), codes_ML, vectors_MD, {**counts, **(notes or {})})


def _place(store: ModelStore, base: Bundle, new: Catalog) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and vectors of new items; uint8 [M, L] and float32 [M, D]."""
    known = known_places(store, base, new.item_ids)
    codes_ML, vectors_MD = known.codes_ML, known.vectors_MD
    rest = np.flatnonzero(~known.placed_M)
    if len(rest):
        text_MX = embed_items(new.select(rest), text_config(base))
        quantizer = ItemQuantizer.open(base)
        codes_ML[rest] = quantizer.code_of(text_MX, None, known.taken)
        vectors_MD[rest] = quantizer.vectors_of(text_MX, None)
    return codes_ML, vectors_MD


def _updated(catalog: Catalog, news: Catalog) -> tuple[Catalog, int]:
    """The catalogue with what is new of its items, and how many changed."""
    titles, texts, categories = list(catalog.titles), list(catalog.texts), list(catalog.categories)
    attributes, prices, available = list(catalog.attributes), catalog.prices.copy(), catalog.available.copy()

    def facts(at: int) -> str:
        # As text, because an unknown price is NaN, which differs from itself.
        return repr((titles[at], texts[at], categories[at], attributes[at], prices[at], available[at]))

    changed = 0
    for row, item_id in enumerate(news.item_ids):
        at = catalog.index_of(item_id)
        before = facts(at)
        titles[at] = news.titles[row]
        texts[at] = news.texts[row] or texts[at]
        categories[at] = news.categories[row] or categories[at]
        attributes[at] = attributes[at] | news.attributes[row]
        if not np.isnan(news.prices[row]):
            prices[at] = news.prices[row]
        available[at] = news.available[row]
        changed += facts(at) != before
    updated = replace(
        catalog,
        titles=tuple(titles),
        texts=tuple(texts),
        categories=tuple(categories),
        prices=prices,
        attributes=tuple(attributes),
        available=available,
    )
    return updated, changed
