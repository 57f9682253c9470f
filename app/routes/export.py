"""Everything that the service knows, to be kept or taken elsewhere."""

from fastapi import Depends
from fastapi.responses import StreamingResponse

from app.dependencies import CurrentServices, NoQuery, require
from app.exported_lines import begun, event_lines, item_lines
from app.posted_rows import JSON_LINES
from app.problems import StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router

router = Router(
    prefix="/export",
    tags=["export"],
    dependencies=[Depends(require("admin"))],
    responses={
        200: {"description": "JSON Lines", "content": {JSON_LINES: {"schema": {"type": "string"}}}},
        **responses(StorageUnavailable),
    },
    default_response_class=StreamingResponse,
)


@router.get("/events")
async def export_events(query: NoQuery, services: CurrentServices) -> StreamingResponse:
    """Every user's history, each oldest first, as lines of `user_id` and `item_id` that `POST /events` takes.

    Where Redis fails on the way, the last line is `{"error": ...}`, and the export is not complete.
    """
    lines = event_lines(services.cache)
    try:
        return StreamingResponse(await begun(lines), media_type=JSON_LINES)
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and histories are in it; try again.") from None


@router.get("/items")
async def export_items(query: NoQuery, services: CurrentServices) -> StreamingResponse:
    """Every item as it is now, hidden and new ones too, deleted ones left out, as lines that `POST /items` takes."""
    try:
        await services.item_log.sync(patient=True)
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and changes of items are in it; try again.") from None
    return StreamingResponse(item_lines(services.active.served, services.overlay), media_type=JSON_LINES)
