"""Pages of the catalogue as it is now: its items in their order, then those that are new, by id."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from app.item_overlay import ItemOverlay
from app.item_schemas import ListItemsParameters
from app.item_views import ItemView, item_view
from app.served_model import ServedModel

LOOKED_AT = 5000
"""Items that one page looks at, at most, so that a search for what is rare does not hold up others."""


@dataclass(frozen=True, slots=True)
class ItemsPage:
    """Some items.

    Attributes:
        next: the cursor of the page after this one; None behind the last.
    """

    items: list[ItemView]
    next: str | None


def list_items(
    model: ServedModel, overlay: ItemOverlay, asked: ListItemsParameters, trouble: str | None = None
) -> ItemsPage | None:
    """The page behind a cursor; None where there is no such cursor. `trouble` as in `item_view`."""
    behind = _behind(model, overlay, asked.cursor)
    if behind is None:
        return None
    items: list[ItemView] = []
    last = None
    for item_id in islice(behind, LOOKED_AT):
        if len(items) == asked.n:
            return ItemsPage(items, last)
        last = item_id
        view = item_view(model, overlay, item_id, trouble)
        if view is not None and _fits(view, asked):
            items.append(view)
    return ItemsPage(items, last if next(behind, None) is not None else None)


def _behind(model: ServedModel, overlay: ItemOverlay, cursor: str | None) -> Iterator[str] | None:
    catalog = model.catalog
    new = sorted(item_id for item_id in overlay.records if item_id not in catalog)
    if cursor is None or cursor in catalog:
        first = 0 if cursor is None else catalog.index_of(cursor) + 1
        published = (catalog.item_ids[index] for index in range(first, len(catalog)))
        return (item_id for part in (published, iter(new)) for item_id in part)
    if overlay.get(cursor) is None:
        return None
    return iter([item_id for item_id in new if item_id > cursor])


def _fits(view: ItemView, asked: ListItemsParameters) -> bool:
    return (
        (asked.hidden or not view.hidden)
        and (view.in_stock or not asked.in_stock)
        and (asked.category is None or asked.category in view.categories)
        and (asked.q is None or asked.q.casefold() in view.title.casefold())
    )
