"""Add items to a published version without training: it is extended, and the extension is published.

A new item's text vector goes through the encoders and codebooks of the version and gives its code and its place among
the neighbours; the language model, which never met it, knows it by the prefixes it shares with others. Nobody has taken
it yet, so its popularity is 0. Items that are there already get the new title, price, availability and whatever else is
said of them, and keep index and code.

A code belongs to one item in all versions of a line of extensions, those beside the base included: cache entries hold
codes, and the versions of a line share them.

Shapes: N items of the base, M new items, L levels, X text size, D vector size.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model_store.bundle import Bundle, ModelStore
from model_store.catalog import Catalog
from model_store.errors import BundleCorrupt
from model_store.quantizer import ItemQuantizer
from offline.column_names import ColumnNames
from offline.embed_items import TextConfig, embed_items
from offline.item_additions import read_additions
from offline.publish_extension import publish_extension
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
    new = select_items(additions, np.flatnonzero(~known))
    catalog, updated = _updated(base.catalog, select_items(additions, np.flatnonzero(known)))
    if not len(new) and not updated:
        return base
    codes_ML, vectors_MD = _place(store, base, new)
    counts = {"added": len(new), "updated": updated}
    return publish_extension(store, base, _joined(catalog, new), codes_ML, vectors_MD, {**counts, **(notes or {})})


def text_config(bundle: Bundle) -> TextConfig:
    """The text encoder that the version's codes were learned with."""
    path = bundle.path / "quantizer" / "config.json"
    try:
        return TextConfig(**json.loads(path.read_text(encoding="utf-8"))["text"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleCorrupt(f"{path}: does not say which text encoder to use: {error!r}") from error


def select_items(catalog: Catalog, rows: NDArray[np.integer]) -> Catalog:
    """The catalogue of some items, in the order given."""
    chosen = rows.tolist()
    return Catalog(
        item_ids=tuple(catalog.item_ids[row] for row in chosen),
        titles=tuple(catalog.titles[row] for row in chosen),
        texts=tuple(catalog.texts[row] for row in chosen),
        categories=tuple(catalog.categories[row] for row in chosen),
        prices=catalog.prices[rows],
        attributes=tuple(catalog.attributes[row] for row in chosen),
        available=catalog.available[rows],
    )


def _place(store: ModelStore, base: Bundle, new: Catalog) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and vectors of new items; uint8 [M, L] and float32 [M, D]."""
    codes_ML = np.empty((len(new), base.item_codes.levels), dtype=np.uint8)
    vectors_MD = np.empty((len(new), base.item_embeddings.shape[1]), dtype=np.float32)
    taken = [base.item_codes.packed]
    placed = np.zeros(len(new), dtype=np.bool_)
    for sibling in _versions_beside(store, base):
        taken.append(sibling.item_codes.packed)
        item_ids = pq.read_table(sibling.path / "items.parquet", columns=["item_id"])["item_id"].to_pylist()
        index_of = {item_id: index for index, item_id in enumerate(item_ids)}
        for row, item_id in enumerate(new.item_ids):
            if not placed[row] and (index := index_of.get(item_id)) is not None:
                codes_ML[row] = sibling.item_codes.codes_NL[index]
                vectors_MD[row] = sibling.item_embeddings[index]
                placed[row] = True
    rest = np.flatnonzero(~placed)
    if len(rest):
        text_MX = embed_items(select_items(new, rest), text_config(base))
        quantizer = ItemQuantizer.open(base)
        codes_ML[rest] = quantizer.code_of(text_MX, None, np.concatenate(taken))
        vectors_MD[rest] = quantizer.vectors_of(text_MX, None)
    return codes_ML, vectors_MD


def _versions_beside(store: ModelStore, base: Bundle) -> list[Bundle]:
    """Versions of the base's line that are not behind it: theirs may be items and codes that the base does not know."""
    line = {bundle.version: bundle for bundle in store.line_of(base.cache_version)}
    behind: str | None = base.version
    while behind is not None:
        bundle = line.pop(behind, None)
        behind = bundle.manifest.extends if bundle is not None else None
    return list(line.values())


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


def _joined(first: Catalog, second: Catalog) -> Catalog:
    return Catalog(
        item_ids=first.item_ids + second.item_ids,
        titles=first.titles + second.titles,
        texts=first.texts + second.texts,
        categories=first.categories + second.categories,
        prices=np.concatenate([first.prices, second.prices]),
        attributes=first.attributes + second.attributes,
        available=np.concatenate([first.available, second.available]),
    )
