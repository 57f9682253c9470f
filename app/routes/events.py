"""What users do: recorded, shown, forgotten."""

import time
from typing import Annotated

from fastapi import APIRouter, Body, Depends

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, require
from app.item_views import knows_item
from app.json_response import Json
from app.problems import StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.schemas import MAX_EVENTS, Event, EventsAnswer, Forgotten, History

router = APIRouter(tags=["events"], responses=responses(StorageUnavailable))


@router.post("/events", dependencies=[Depends(require("write"))], responses={200: {"model": EventsAnswer}})
async def record_events(
    events: Annotated[list[Event], Body(min_length=1, max_length=MAX_EVENTS)],
    query: NoQuery,
    model: CurrentModel,
    services: CurrentServices,
) -> Json:
    """Record events.

    A malformed row is a 422 that names it, and nothing is recorded. Rows with an item that nobody knows, or that was
    deleted, are listed under `rejected`, and the others are recorded. The answer comes after Redis has them; a 503
    means that they should be sent again, which at worst repeats an event.
    """
    now = time.time()
    known = [knows_item(model, services.overlay, event.item_id) for event in events]
    accepted = [event for event, is_known in zip(events, known, strict=True) if is_known]
    # A client may send in any order; the history must be oldest first. The sort keeps the order of equal times.
    accepted.sort(key=lambda event: event.seconds(now))
    try:
        await services.cache.append_events((event.user_id, event.item_id) for event in accepted)
    except CacheUnavailable:
        services.telemetry.events.labels("refused", "").inc(len(events))
        raise StorageUnavailable from None
    services.event_refresh.noticed(event.user_id for event in accepted)
    for event in accepted:
        services.telemetry.events.labels("accepted", "yes" if event.recommendation_id else "no").inc()
    rejected = [
        {"row": row, "item_id": event.item_id, "reason": "unknown_item"}
        for row, (event, is_known) in enumerate(zip(events, known, strict=True))
        if not is_known
    ]
    services.telemetry.events.labels("rejected", "").inc(len(rejected))
    return Json({"accepted": len(accepted), "rejected": rejected})


@router.get(
    "/users/{user_id:path}/history", dependencies=[Depends(require("read"))], responses={200: {"model": History}}
)
async def show_history(user_id: PathId, query: NoQuery, services: CurrentServices) -> Json:
    """What is recorded of a user, oldest first. Empty for a user nobody has heard of."""
    try:
        items = await services.cache.history(user_id)
    except CacheUnavailable:
        raise StorageUnavailable from None
    return Json({"user_id": user_id, "items": items})


@router.delete("/users/{user_id:path}", dependencies=[Depends(require("write"))], responses={200: {"model": Forgotten}})
async def forget_user(user_id: PathId, query: NoQuery, services: CurrentServices) -> Json:
    """Forget a user: history, lists of every version, and pending refresh."""
    try:
        existed = await services.cache.forget(user_id)
    except CacheUnavailable:
        raise StorageUnavailable from None
    services.freshness.satisfied(user_id)
    return Json({"user_id": user_id, "existed": existed})
