"""Where the time of a cached answer goes: processor time of the parts, each driven alone, in one process.

    python -m benchmarks.answer_profile

Parts are nested: each line holds the ones above it. Users are answered 16 at a time, as a tick of a busy event loop
would; the least of many rounds is taken, so that a busy machine matters less. Beside the last, the same of a FastAPI
route with ready bytes (`benchmarks/bare_app.py`). Not in it: the event loop's part in sockets.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import uvicorn
import uvloop
from starlette.types import ASGIApp, Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app import embedded_redis
from app.cached_answer import cached_answer
from app.direct_route import DirectRoute, read_parameters
from app.http_protocol import HttpProtocol
from app.main import create_app
from app.request_boundary import RequestBoundary
from app.settings import Settings
from app.traffic import Traffic
from benchmarks.bare_app import bare_app
from benchmarks.harness import Table
from benchmarks.serve import USERS, fill
from tests.app.light_bundle import publish_light_bundle

DRIVER, READY = "the driver itself", "FastAPI, ready bytes, by uvicorn as it is"
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
        ready = bare_app("ready", (await services.recommender.answer("user-0", wanted))[1])

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
            DRIVER: nothing,
            "read: entry and history, 16 users in one round trip": read,
            "entry to response, without the read": render,
            "answer: read, response, counts": answer,
            "route: answer, parameters, access": through(direct),
            "boundary: route, request id, request counts": through(boundary),
            "application: boundary, Starlette's outer layers": through(app),
            "connection: request read, answer written": _Connections(HttpProtocol, app).answer,
            READY: _Connections(HttpToolsProtocol, ready).answer,
        }
        least = dict.fromkeys(parts, float("inf"))
        for turn in range(_ROUNDS):
            for place, (name, part) in enumerate(parts.items()):
                first = (turn * len(parts) + place) * _AT_ONCE * _TICKS
                least[name] = min(least[name], await _processor_us(part, first))
        base = least["the driver itself"]
        rows = [(name, us if name == DRIVER else us - base) for name, us in least.items()]
        return Table("processor time of one answer", ("", "us"), rows)


async def _processor_us(part: Callable[[int], Awaitable[None]], first: int) -> float:
    begin = time.process_time()
    for tick in range(_TICKS):
        users = range(first + tick * _AT_ONCE, first + (tick + 1) * _AT_ONCE)
        await asyncio.gather(*(part(user % USERS) for user in users))
    return (time.process_time() - begin) / (_TICKS * _AT_ONCE) * 1e6


class _Connections:
    """Keep-alive connections of a protocol without sockets."""

    def __init__(self, protocol: type[HttpToolsProtocol], app: ASGIApp) -> None:
        # As `app.main.serve` has it.
        config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"Sat, 01 Jan 2000 00:00:00 GMT")]
        self._idle = []
        for _ in range(_AT_ONCE):
            to_client, from_client = _ToClient(), protocol(config, state, {})
            from_client.connection_made(to_client)
            self._idle.append((to_client, from_client))

    async def answer(self, user: int) -> None:
        to_client, from_client = self._idle.pop()
        to_client.answered = asyncio.get_running_loop().create_future()
        from_client.data_received(b"GET /recommend/user-%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % user)
        await to_client.answered
        self._idle.append((to_client, from_client))


class _ToClient(asyncio.Transport):
    """Takes what is written; `answered` is done with the last byte of the body."""

    answered: "asyncio.Future[None]"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40000) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data[-1:] == b"}":
            self.answered.set_result(None)


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
