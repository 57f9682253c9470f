"""Items: what is known of them, and what changes. A change holds for the very next answer of every worker."""

from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Query, Request

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, Services, require
from app.item_pages import ItemsPage, list_items
from app.item_problems import NewItemUnavailable, TooManyChangedItems
from app.item_schemas import (
    MAX_WRITES,
    DeletedItem,
    ItemBody,
    ItemPatch,
    ItemWrite,
    ListItemsParameters,
    WriteLinesAnswer,
    WritesAnswer,
)
from app.item_views import ItemView, item_view, knows_item
from app.item_writes import RejectionReason, Written
from app.json_response import Json
from app.posted_rows import RowsBody
from app.problems import ItemNotFound, StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from model_store.item_records import ItemChange

router = Router(prefix="/items", tags=["items"])

_BODY = RowsBody(
    ItemWrite,
    MAX_WRITES,
    [
        {"item_id": "item-204", "operation": "patch", "in_stock": False},
        {"item_id": "item-9", "operation": "delete"},
    ],
)
_READ = [Depends(require("read"))]
_WRITE = [Depends(require("write"))]


@router.get("", dependencies=_READ, responses={200: {"model": ItemsPage}, **responses(ItemNotFound)})
async def list_catalogue(
    asked: Annotated[ListItemsParameters, Query()], model: CurrentModel, services: CurrentServices
) -> Json:
    """Go through the catalogue, page by page. A page may have fewer items than asked for and still not be the last one:
    that has no `next`.
    """
    page = list_items(model, services.overlay, asked, services.item_publishing.trouble)
    if page is None:
        raise ItemNotFound("The cursor is none of this catalogue; begin again without it.")
    return Json(page)


@router.post(
    "",
    dependencies=_WRITE,
    responses={200: {"model": WritesAnswer | WriteLinesAnswer}, **responses(StorageUnavailable)},
    openapi_extra=_BODY.described,
)
async def write_items(request: Request, query: NoQuery, services: CurrentServices) -> Json:
    """Write many items, in their order: up to 1000 as a JSON array, or as JSON Lines (`application/x-ndjson`) whatever
    fits into a body.

    A malformed row of an array is a 422 that names it, and nothing is stored; a malformed line is listed under
    `rejected`, and the others are stored. So are rows that cannot be stored. The rows of an array hold together from
    one moment on, lines a thousand at a time. After a 503 send all of them again: what was stored stays as it is.
    """
    posted = await _BODY.read(request)
    reasons: dict[int, str] = {}
    for start in range(0, len(posted.rows), MAX_WRITES):
        written = await write_all(services, [row.change() for row in posted.rows[start : start + MAX_WRITES]])
        reasons |= {start + row: reason for row, reason in enumerate(written.reasons) if reason is not None}
    accepted = len(posted.rows) - len(reasons)
    if posted.in_lines:
        return Json({"accepted": accepted, **posted.rejected_lines(reasons)})
    rejected = [{"row": row, "item_id": posted.rows[row].item_id, "reason": reason} for row, reason in reasons.items()]
    return Json({"accepted": accepted, "rejected": rejected})


@router.get("/{item_id:path}", dependencies=_READ, responses={200: {"model": ItemView}, **responses(ItemNotFound)})
async def show_item(item_id: PathId, query: NoQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """One item as it is now, hidden ones too."""
    return Json(_view(services, item_id))


@router.put(
    "/{item_id:path}",
    dependencies=_WRITE,
    responses={
        200: {"model": ItemView},
        201: {"model": ItemView, "description": "The item was not there before"},
        **responses(StorageUnavailable, NewItemUnavailable, TooManyChangedItems),
    },
)
async def put_item(item_id: PathId, asked: ItemBody, query: NoQuery, services: CurrentServices) -> Json:
    """Say all of an item; one that is not there is made, and one that was deleted is back.

    A new item has its code at once, and is in lists as soon as a version with it is published (`decodable`), seconds
    later.
    """
    with suppress(CacheUnavailable):
        await services.item_log.sync(patient=True)
    was_there = knows_item(services.active.served, services.overlay, item_id)
    await write_one(services, ItemChange(item_id, "put", asked.record()))
    return Json(_view(services, item_id), 200 if was_there else 201)


@router.patch(
    "/{item_id:path}",
    dependencies=_WRITE,
    responses={200: {"model": ItemView}, **responses(ItemNotFound, StorageUnavailable, TooManyChangedItems)},
)
async def patch_item(item_id: PathId, asked: ItemPatch, query: NoQuery, services: CurrentServices) -> Json:
    """Change some of an item: its price, its stock, whether it is hidden."""
    await write_one(services, ItemChange(item_id, "patch", asked.record()))
    return Json(_view(services, item_id))


@router.delete(
    "/{item_id:path}",
    dependencies=_WRITE,
    responses={200: {"model": DeletedItem}, **responses(ItemNotFound, StorageUnavailable, TooManyChangedItems)},
)
async def delete_item(item_id: PathId, query: NoQuery, services: CurrentServices) -> Json:
    """Delete an item. Its code stays its own, should it come back."""
    await write_one(services, ItemChange(item_id, "delete", {}))
    return Json(DeletedItem(item_id=item_id).model_dump())


async def write_one(services: Services, change: ItemChange) -> None:
    """Store one change.

    Raises:
        Problem: it was not stored, and why.
    """
    written = await write_all(services, [change])
    raise_reason(written.reasons[0], written.no_place)


def raise_reason(reason: RejectionReason | None, no_place: str | None) -> None:
    """Say why a change was not stored; nothing where it was.

    Raises:
        Problem: ItemNotFound, TooManyChangedItems or NewItemUnavailable.
    """
    match reason:
        case "unknown_item":
            raise ItemNotFound
        case "too_many_changed_items":
            raise TooManyChangedItems
        case "new_item_unavailable":
            raise NewItemUnavailable(
                f"A new item gets its code by way of the decoder, which cannot give one ({no_place}). Nothing "
                "was stored. Try again, or add the item to the model version: `tessera items add FILE --activate`."
            )


async def write_all(services: Services, changes: list[ItemChange]) -> Written:
    """Store what can be stored.

    Raises:
        StorageUnavailable: nothing was.
    """
    try:
        return await services.item_writes.write(changes)
    except CacheUnavailable:
        raise StorageUnavailable from None


def _view(services: Services, item_id: str) -> ItemView:
    view = item_view(services.active.served, services.overlay, item_id, services.item_publishing.trouble)
    if view is None:
        # Deleted, perhaps by somebody else a moment ago.
        raise ItemNotFound
    return view
