"""What our service is compared with: one route and a constant body, made in several ways, under the same uvicorn.

    python -m benchmarks.bare_app KIND BODY_FILE PORT

dict    a FastAPI route that returns the parsed body: what one writes first. FastAPI encodes it for each answer
typed   the same route with a return annotation, which FastAPI serialises by pydantic
ready   a FastAPI route that returns the bytes
floor   a plain ASGI application: one read of the user from Redis (BENCH_REDIS, BENCH_BUCKETS), then the bytes
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.pipelined_connection import PipelinedConnection
from app.redis_connection import connect
from model_store.cache_keys import EntryLayout, Keys

LAYOUT_VERSION = "light-1"


def bare_app(kind: str, body: bytes) -> ASGIApp:
    """An application whose every answer is this JSON."""
    if kind == "floor":
        return _floor(body)
    app = FastAPI()
    parsed = json.loads(body)

    async def returns_dict(user_id: str) -> Any:
        return parsed

    async def returns_typed(user_id: str) -> dict[str, Any]:
        return dict(parsed)

    async def returns_ready(user_id: str) -> Response:
        return Response(body, media_type="application/json")

    routes = {"dict": returns_dict, "typed": returns_typed, "ready": returns_ready}
    # `Any` would count as an annotation.
    options: dict[str, Any] = {"response_model": None} if kind == "dict" else {}
    app.get("/recommend/{user_id}", **options)(routes[kind])
    return app


def _floor(body: bytes) -> ASGIApp:
    keys, layout = Keys(), EntryLayout(LAYOUT_VERSION, int(os.environ["BENCH_BUCKETS"]))
    client = connect(os.environ["BENCH_REDIS"], connect_timeout_s=5, timeout_s=5, max_connections=1)
    opened: list[PipelinedConnection] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if not opened:
            opened.append(await PipelinedConnection.open(client.connection_pool))  # type: ignore[union-attr]
        user = scope["path"].rpartition("/")[2]
        replies = await opened[0].send(
            (
                ("GET", keys.active),
                ("HGET", keys.bucket_of(layout, user), user),
                ("LRANGE", keys.history(user), "0", "-1"),
            )
        )
        assert replies[1] is not None
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


if __name__ == "__main__":
    kind, body_file, port = sys.argv[1:]
    # The options of app.main.serve.
    uvicorn.run(
        bare_app(kind, Path(body_file).read_bytes()),
        port=int(port),
        log_config=None,
        access_log=False,
        server_header=False,
    )
