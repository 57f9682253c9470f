"""What the service knows, as JSON Lines that it takes again: some rows in memory at a time, however many there are."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any

import orjson
from redis.asyncio.client import Pipeline

from app.item_overlay import ItemOverlay
from app.item_views import item_view
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.served_model import ServedModel

_USERS_AT_ONCE = 50
_ITEMS_AT_ONCE = 200
_SCANNED_AT_ONCE = 1000
_SENT = ("item_id", "title", "text", "categories", "price", "attributes", "in_stock", "hidden")
"""What `POST /items` takes of an item."""
STOPPED = {"error": {"reason": "redis", "detail": "Redis failed; the export is not complete. Begin it again."}}
"""The last line of an export that could not go on."""


async def event_lines(cache: RecommendationCache) -> AsyncIterator[bytes]:
    """Every history, each oldest first, as rows of `POST /events`. A user whose history is made meanwhile may be left
    out, or come twice.

    Raises:
        CacheUnavailable: Redis failed.
    """
    async with cache.attempt("export") as client:
        names: AsyncIterator[bytes] = client.scan_iter(cache.keys.histories(), count=_SCANNED_AT_ONCE)
    while some := await _next(cache, names):
        users = [cache.keys.user_of_history(name.decode(errors="replace")) for name in some]

        def read(pipeline: Pipeline, some: list[bytes] = some) -> None:
            for name in some:
                pipeline.lrange(name, 0, -1)

        histories = await cache.execute("export", read)
        for user, history in zip(users, histories, strict=True):
            yield _lines({"user_id": user, "item_id": item.decode(errors="replace")} for item in history)


async def item_lines(model: ServedModel, overlay: ItemOverlay) -> AsyncIterator[bytes]:
    """Every item as it is now, hidden ones too, as rows of `POST /items`: those of the version, then new ones by id."""
    new = sorted(item_id for item_id in overlay.records if item_id not in model.catalog)
    item_ids = (item_id for part in (model.catalog.item_ids, new) for item_id in part)
    while some := list(islice(item_ids, _ITEMS_AT_ONCE)):
        yield _lines(_items(model, overlay, some))
        # A socket that takes everything at once would not let others be served.
        await asyncio.sleep(0)


async def told(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines, and where they end too early a last one that says so: the status has been sent by then."""
    try:
        async for some in lines:
            yield some
    except CacheUnavailable:
        yield _lines([STOPPED])


async def begun(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines whose beginning is there, so that what fails at once can be answered with a status.

    Raises:
        CacheUnavailable: Redis failed.
    """
    first = await anext(lines, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        async for some in lines:
            yield some

    return told(all_of_them())


async def _next(cache: RecommendationCache, names: AsyncIterator[bytes]) -> list[bytes]:
    """The next names of a scan; it may give one twice, mostly close together."""
    found: dict[bytes, None] = {}
    async with cache.attempt("export"):
        while len(found) < _USERS_AT_ONCE and (name := await anext(names, None)) is not None:
            found[name] = None
    return list(found)


def _items(model: ServedModel, overlay: ItemOverlay, item_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    for item_id in item_ids:
        view = item_view(model, overlay, item_id)
        if view is not None:
            yield {name: getattr(view, name) for name in _SENT}


def _lines(rows: Iterable[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)
