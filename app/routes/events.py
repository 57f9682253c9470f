"""What users do: recorded, shown, forgotten."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fastapi import Depends, Request

from app.dependencies import CurrentModel, CurrentServices, NoQuery, PathId, Services, require
from app.event_problems import TooManyEvents
from app.event_schemas import Event, EventLinesAnswer, EventsAnswer, Forgotten, History
from app.item_views import knows_item
from app.json_response import Json
from app.posted_rows import RowsBody
from app.problems import StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.recorded_events import EventsRefused, NewEvent
from app.routers import Router
from app.schemas import MAX_EVENTS
from app.served_model import ServedModel

_BODY = RowsBody(
    Event,
    MAX_EVENTS,
    [
        {"user_id": "ann", "item_id": "B000F83SZQ", "type": "view", "id": "7f3a9c"},
        {"user_id": "bob", "item_id": "B000F83SZQ"},
    ],
)

router = Router(tags=["events"], responses=responses(StorageUnavailable))


@router.post(
    "/events",
    dependencies=[Depends(require("write"))],
    responses={200: {"model": EventsAnswer | EventLinesAnswer}, **responses(TooManyEvents, StorageUnavailable)},
    openapi_extra=_BODY.described,
)
async def record_events(request: Request, query: NoQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """Record events: up to 1000 as a JSON array, or as JSON Lines (`application/x-ndjson`) whatever fits into a body.

    A malformed row of an array is a 422 that names it, and nothing is recorded; a malformed line is listed under
    `rejected`, and the others are recorded. So are rows with an item that nobody knows, or that was deleted. Events of
    a read type (`read`) are withheld from the user from their time on and do not enter the history. An event with an
    `id` is recorded once, however often it is sent within a day (TESSERA_EVENT_ID_TTL_S). The answer comes after Redis
    has all events; after a 503 or 429 they should be sent again, which at worst repeats those without an id.
    """
    posted = await _BODY.read(request)
    recorded = await record(posted.rows, model, services)
    services.telemetry.events.labels("rejected", "").inc(len(posted.rejected))
    answer: dict[str, object] = {"accepted": recorded.accepted, "duplicates": recorded.duplicates}
    if posted.in_lines:
        return Json({**answer, **posted.rejected_lines(dict.fromkeys(recorded.unknown, "unknown_item"))})
    rejected = [{"row": row, "item_id": posted.rows[row].item_id, "reason": "unknown_item"} for row in recorded.unknown]
    return Json({**answer, "rejected": rejected})


@dataclass(frozen=True)
class Recorded:
    """What became of some events.

    Attributes:
        accepted: events that are recorded now.
        duplicates: of these, those that were before.
        unknown: rows whose item nobody knows.
    """

    accepted: int
    duplicates: int
    unknown: list[int]


async def record(events: Sequence[Event], model: ServedModel, services: Services) -> Recorded:
    """Record events, and tell the parts that count them.

    Raises:
        Problem: TooManyEvents or StorageUnavailable; nothing counts as recorded.
    """
    now = time.time()
    rows = [row for row, event in enumerate(events) if knows_item(model, services.overlay, event.item_id)]
    # A client may send in any order; the history must be oldest first. The sort keeps the order of equal times.
    accepted = sorted(((events[row].seconds(now), events[row]) for row in rows), key=lambda one: one[0])
    read_types = services.settings.types_of_reads
    try:
        recorded = await services.recorded_events.record(
            [
                NewEvent(event.user_id, event.item_id, seconds, event.type in read_types, event.id)
                for seconds, event in accepted
            ]
        )
    except EventsRefused:
        services.telemetry.events.labels("too_many", "").inc(len(events))
        raise TooManyEvents from None
    except CacheUnavailable:
        services.telemetry.events.labels("refused", "").inc(len(events))
        raise StorageUnavailable from None
    news = [one for one, is_new in zip(accepted, recorded, strict=True) if is_new]
    _notice(services, news, read_types)
    duplicates = len(accepted) - len(news)
    services.telemetry.events.labels("duplicate", "").inc(duplicates)
    known = set(rows)
    unknown = [row for row in range(len(events)) if row not in known]
    services.telemetry.events.labels("rejected", "").inc(len(unknown))
    return Recorded(len(accepted), duplicates, unknown)


def _notice(services: Services, news: Sequence[tuple[float, Event]], read_types: Collection[str]) -> None:
    """Tell the parts that count and refresh of events that were recorded just now."""
    others = [(seconds, event) for seconds, event in news if event.type not in read_types]
    services.event_refresh.noticed(event.user_id for _, event in others)
    for seconds, event in others:
        services.popular_windows.happened(event.item_id, seconds)
        if event.recommendation_id is not None:
            services.attribution.happened(event.recommendation_id, event.item_id)
    attributed = sum(event.recommendation_id is not None for _, event in news)
    services.telemetry.events.labels("accepted", "yes").inc(attributed)
    services.telemetry.events.labels("accepted", "no").inc(len(news) - attributed)


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
    """Forget a user: history, blocks and reads, event ids, lists of every version, and pending refresh."""
    return Json({"user_id": user_id, "existed": await forget(user_id, services)})


async def forget(user_id: str, services: Services) -> bool:
    """Forget a user; whether there was anything to forget.

    Raises:
        StorageUnavailable: it is not done.
    """
    services.event_refresh.forget(user_id)
    await services.write_back.forget(user_id)
    await services.freshness.forget(user_id)
    try:
        return await services.cache.forget(user_id, services.active.served.entry_layout)
    except CacheUnavailable:
        raise StorageUnavailable from None
