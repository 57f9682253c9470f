"""Where the time of a cached answer goes: processor time of the parts, each driven alone, in one process.

    python -m benchmarks.answer_profile

Parts are nested: each line holds the ones above it. Users are answered 16 at a time, as a tick of a busy event loop
would; the least of many rounds is taken, so that a busy machine matters less. Not in it: the HTTP server (uvicorn).
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import uvloop
from starlette.types import Message

from app import embedded_redis
from app.cached_answer import cached_answer
from app.direct_route import DirectRoute, read_parameters
from app.main import create_app
from app.request_boundary import RequestBoundary
from app.settings import Settings
from app.traffic import Traffic
from benchmarks.harness import Table
from benchmarks.serve import USERS, fill
from tests.app.light_bundle import publish_light_bundle

_AT_ONCE = 16
_TICKS = 25
_ROUNDS = 60


async def profile(settings: Settings) -> Table:
    """Drive each part of one application."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        services = app.state.services
        model, wanted = services.active.served, read_parameters(b"")
        assert wanted is not None
        stored = [await services.cache.stored(model.entry_layout, f"user-{user}") for user in range(USERS)]
        max_age_s, now = settings.cache_max_age_s, time.time()
        direct = DirectRoute(app)
        boundary = RequestBoundary(direct, settings=settings, telemetry=services.telemetry, traffic=Traffic())

        async def nothing(user: int) -> None:
            _scope(app, user)

        async def read(user: int) -> None:
            await services.cache.stored(model.entry_layout, f"user-{user}")

        async def render(user: int) -> None:
            cached_answer(model, f"user-{user}", wanted, stored[user], max_age_s, now)

        async def answer(user: int) -> None:
            await services.recommender.answer(f"user-{user}", wanted)

        def through(part: Any) -> Callable[[int], Awaitable[None]]:
            async def call(user: int) -> None:
                await part(_scope(app, user), _receive, _send)

            return call

        parts: dict[str, Callable[[int], Awaitable[None]]] = {
            "the driver itself": nothing,
            "read: entry and history, 16 users in one round trip": read,
            "entry to response, without the read": render,
            "answer: read, response, counts": answer,
            "route: answer, parameters, access": through(direct),
            "boundary: route, request id, request counts": through(boundary),
            "application: boundary, Starlette's outer layers": through(app),
        }
        least = dict.fromkeys(parts, float("inf"))
        for turn in range(_ROUNDS):
            for place, (name, part) in enumerate(parts.items()):
                first = (turn * len(parts) + place) * _AT_ONCE * _TICKS
                least[name] = min(least[name], await _processor_us(part, first))
        base = least["the driver itself"]
        rows = [(name, us if name == "the driver itself" else us - base) for name, us in least.items()]
        return Table("processor time of one answer", ("", "us"), rows)


async def _processor_us(part: Callable[[int], Awaitable[None]], first: int) -> float:
    begin = time.process_time()
    for tick in range(_TICKS):
        users = range(first + tick * _AT_ONCE, first + (tick + 1) * _AT_ONCE)
        await asyncio.gather(*(part(user % USERS) for user in users))
    return (time.process_time() - begin) / (_TICKS * _AT_ONCE) * 1e6


def _scope(app: Any, user: int) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 40000),
        "method": "GET",
        "path": f"/recommend/user-{user}",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "app": app,
    }


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    return None


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        # Patient: a busy machine must not turn cached answers into popular items.
        settings = Settings(store=Path(folder) / "store", home=Path(folder) / "home", redis_timeout_ms=5000)
        bundle = publish_light_bundle(settings.store, items=12_000)
        try:
            fill(redis.Redis.from_url(embedded_redis.ensure_running(settings.home)), bundle)
            table = uvloop.run(profile(settings))
        finally:
            embedded_redis.stop(settings.home)
    print(f"{table.title}, us")
    for name, us in table.rows:
        print(f"  {name:56} {us:5.1f}")


if __name__ == "__main__":
    main()
