"""Gorse's calls about items, by the functions of our own `/items`."""

from contextlib import suppress
from typing import Annotated

from fastapi import Body, Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, Services, require
from app.gorse.addresses import PREFIX, TAGS
from app.gorse.answers import row_affected
from app.gorse.items import MAX_ROWS, GorseItem, ItemAnswer, ItemSaid, ItemsAnswer, shown
from app.gorse.schemas import ItemsParameters, RejectedRow, RowAffected
from app.item_pages import list_items
from app.item_problems import NewItemUnavailable, TooManyChangedItems
from app.item_schemas import ItemPatch, ListItemsParameters
from app.item_views import ItemView, item_view, knows_item
from app.json_response import Json
from app.problems import ItemNotFound, StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.routes.catalogue import raise_reason, write_all, write_one
from model_store.item_records import ItemChange, Operation

router = Router(prefix=PREFIX, tags=TAGS)

_READ = [Depends(require("read"))]
_WRITE = [Depends(require("write"))]
_NEW = responses(StorageUnavailable, NewItemUnavailable, TooManyChangedItems)
_KNOWN = responses(ItemNotFound, StorageUnavailable, TooManyChangedItems)


@router.post("/item", dependencies=_WRITE, responses={200: {"model": RowAffected}, **_NEW})
async def gorse_insert_item(item: GorseItem, query: NoQuery, services: CurrentServices) -> Json:
    """Insert an item, or overwrite it: `PUT /items/{item_id}` in Gorse's names. Price and stock stay as they are."""
    return await _insert([item], services)


@router.post("/items", dependencies=_WRITE, responses={200: {"model": RowAffected}, **_NEW})
async def gorse_insert_items(
    items: Annotated[list[GorseItem], Body(min_length=1, max_length=MAX_ROWS)],
    query: NoQuery,
    services: CurrentServices,
) -> Json:
    """Insert items, or overwrite them. Rows that could not be stored are listed under `Rejected`; if none could, this
    is a problem.
    """
    return await _insert(items, services)


@router.get("/items", dependencies=_READ, responses={200: {"model": ItemsAnswer}, **responses(ItemNotFound)})
async def gorse_get_items(
    asked: Annotated[ItemsParameters, Query()], model: CurrentModel, services: CurrentServices
) -> Json:
    """Go through the catalogue, hidden items and those out of stock too, page by page."""
    wanted = ListItemsParameters.model_construct(
        n=asked.size, cursor=asked.cursor or None, category=None, q=asked.q or None, in_stock=False, hidden=True
    )
    page = list_items(model, services.overlay, wanted, services.item_publishing.trouble)
    if page is None:
        raise ItemNotFound("The cursor is none of this catalogue; begin again without it.")
    answer = ItemsAnswer(cursor=page.next or "", items=[shown(view) for view in page.items])
    return Json(answer.model_dump(by_alias=True))


@router.get("/item/{item_id}", dependencies=_READ, responses={200: {"model": ItemAnswer}, **responses(ItemNotFound)})
async def gorse_get_item(item_id: PathId, query: NoQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """One item as it is now, hidden ones too."""
    return Json(shown(_view(item_id, services)).model_dump(by_alias=True))


@router.patch("/item/{item_id}", dependencies=_WRITE, responses={200: {"model": RowAffected}, **_KNOWN})
async def gorse_update_item(item_id: PathId, said: ItemSaid, query: NoQuery, services: CurrentServices) -> Json:
    """Change what is said of an item; what is null or left out stays."""
    await _read_on(services)
    fields = said.changes(item_id, _view(item_id, services).attributes)
    if fields:
        await write_one(services, ItemChange(item_id, "patch", fields))
    return row_affected(1)


@router.delete(
    "/item/{item_id}",
    dependencies=_WRITE,
    responses={200: {"model": RowAffected}, **responses(StorageUnavailable, TooManyChangedItems)},
)
async def gorse_delete_item(item_id: PathId, query: NoQuery, services: CurrentServices) -> Json:
    """Delete an item. One that nobody knows is 0 rows."""
    try:
        await write_one(services, ItemChange(item_id, "delete", {}))
    except ItemNotFound:
        return row_affected(0)
    return row_affected(1)


@router.put(
    "/item/{item_id}/category/{category:path}", dependencies=_WRITE, responses={200: {"model": RowAffected}, **_KNOWN}
)
async def gorse_insert_item_category(
    item_id: PathId, category: PathId, query: NoQuery, services: CurrentServices
) -> Json:
    """Put an item into a category."""
    await _read_on(services)
    categories = _view(item_id, services).categories
    if category not in categories:
        await _write_categories(item_id, [*categories, category], services)
    return row_affected(1)


@router.delete(
    "/item/{item_id}/category/{category:path}", dependencies=_WRITE, responses={200: {"model": RowAffected}, **_KNOWN}
)
async def gorse_delete_item_category(
    item_id: PathId, category: PathId, query: NoQuery, services: CurrentServices
) -> Json:
    """Take an item out of a category."""
    await _read_on(services)
    categories = _view(item_id, services).categories
    if category in categories:
        await _write_categories(item_id, [one for one in categories if one != category], services)
    return row_affected(1)


async def _insert(items: list[GorseItem], services: Services) -> Json:
    await _read_on(services)
    model = services.active.served
    changes: list[ItemChange] = []
    there: set[str] = set()
    for item in items:
        is_known = item.item_id in there or knows_item(model, services.overlay, item.item_id)
        # What Gorse has no name for stays as it is.
        operation: Operation = "patch" if is_known else "put"
        there.add(item.item_id)
        changes.append(ItemChange(item.item_id, operation, item.record()))
    written = await write_all(services, changes)
    rejected = [
        RejectedRow(row=row, item_id=items[row].item_id, reason=reason)
        for row, reason in enumerate(written.reasons)
        if reason is not None
    ]
    if len(rejected) == len(items):
        raise_reason(written.reasons[0], written.no_place)
    return row_affected(len(items) - len(rejected), rejected)


async def _read_on(services: Services) -> None:
    with suppress(CacheUnavailable):
        # Where it is away, the write will say so.
        await services.item_log.sync(patient=True)


def _view(item_id: str, services: Services) -> ItemView:
    view = item_view(services.active.served, services.overlay, item_id, services.item_publishing.trouble)
    if view is None:
        raise ItemNotFound
    return view


async def _write_categories(item_id: str, categories: list[str], services: Services) -> None:
    try:
        fields = ItemPatch(categories=tuple(categories)).record()
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("path", "category")} for one in found]) from None
    await write_one(services, ItemChange(item_id, "patch", fields))
