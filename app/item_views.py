"""Items as they are now: the catalogue's, with what has changed since it was published."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.item_overlay import ItemOverlay
from app.served_model import ServedModel
from model_store.catalog import Catalog
from model_store.item_codes import code_text
from model_store.item_records import ItemRecord

WithheldReason = Literal["deleted", "hidden", "out_of_stock", "not_decodable"]


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item.

    Attributes:
        price: None where it is not known.
        in_stock: whether it is available.
        hidden: whether it is kept out of every list.
        code: the item's code as the model writes it; None for an item that has none in the served line of versions.
        decodable: whether the served version has the item, so that it can be recommended.
        not_decodable: why not; None where it is.
    """

    item_id: str
    title: str
    text: str
    categories: list[str]
    price: float | None
    attributes: dict[str, str]
    in_stock: bool
    hidden: bool
    code: str | None
    decodable: bool
    not_decodable: str | None


def knows_item(model: ServedModel, overlay: ItemOverlay, item_id: str) -> bool:
    """Whether the item is in the served catalogue, or was taken since, and was not deleted."""
    record = overlay.get(item_id)
    return item_id in model.catalog if record is None else not record.get("deleted", False)


def withheld_reason(model: ServedModel, overlay: ItemOverlay, item_id: str, in_stock: bool) -> WithheldReason | None:
    """Why an item must not be in a list; None where it may, or where nobody knows it.

    Args:
        model: the version to answer with.
        overlay: what has changed.
        item_id: which item.
        in_stock: whether being out of stock is a reason.
    """
    record: ItemRecord = overlay.get(item_id) or {}
    if record.get("deleted", False):
        return "deleted"
    if record.get("hidden", False):
        return "hidden"
    if item_id not in model.catalog:
        return "not_decodable" if record else None
    if in_stock and not record.get("in_stock", model.catalog.available[model.catalog.index_of(item_id)]):
        return "out_of_stock"
    return None


def item_view(model: ServedModel, overlay: ItemOverlay, item_id: str, trouble: str | None = None) -> ItemView | None:
    """One item; None where nobody knows it, or it was deleted.

    Args:
        model: the version to answer with.
        overlay: what has changed.
        item_id: which item.
        trouble: why new items do not become part of the served version.
    """
    if not knows_item(model, overlay, item_id):
        return None
    record = overlay.get(item_id) or {}
    published = _published(model.catalog, item_id)
    decodable = published is not None
    said: ItemRecord = {**(published or {}), **record}
    return ItemView(
        item_id=item_id,
        title=said.get("title", item_id),
        text=said.get("text", ""),
        categories=said.get("categories", []),
        price=said.get("price"),
        attributes=said.get("attributes", {}),
        in_stock=said.get("in_stock", True),
        hidden=said.get("hidden", False),
        code=_code(model, record, item_id),
        decodable=decodable,
        not_decodable=None if decodable else trouble or "the version with this item has not been published yet",
    )


def _published(catalog: Catalog, item_id: str) -> ItemRecord | None:
    if item_id not in catalog:
        return None
    at = catalog.index_of(item_id)
    price = catalog.prices[at]
    return {
        "title": catalog.titles[at],
        "text": catalog.texts[at],
        "categories": list(catalog.categories[at]),
        # Through its text: 12.99 as float32 is not 12.99 as float64.
        "price": None if np.isnan(price) else float(str(price)),
        "attributes": catalog.attributes[at],
        "in_stock": bool(catalog.available[at]),
    }


def _code(model: ServedModel, record: ItemRecord, item_id: str) -> str | None:
    if item_id in model.catalog:
        return model.codes_of([model.catalog.index_of(item_id)])[0]
    place = record.get("place")
    if place is None or place["line"] != model.bundle.cache_version:
        return None
    return code_text(np.array(place["code"], dtype=np.uint8))
