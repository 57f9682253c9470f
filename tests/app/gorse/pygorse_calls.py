"""Calls by PyGorse, and what is sent by hand in Gorse's shapes."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import httpx

KEY, READER = "gorse-" + "k" * 20, "reader-" + "k" * 20
"""Keys of the server: one that may read and write, and one that may only read."""
AT = "2026-01-02T03:04:05Z"
NEVER = "0001-01-01T00:00:00Z"

Call = Callable[..., Any]
"""A method of PyGorse's by its name, and its arguments."""


def calling(kind: type, server: httpx.Client, key: str = KEY) -> Call:
    client = kind(str(server.base_url).rstrip("/"), key)

    def call(method: str, *arguments: Any, **named: Any) -> Any:
        answer = getattr(client, method)(*arguments, **named)
        return asyncio.run(answer) if inspect.isawaitable(answer) else answer

    return call


def feedback(item: int, *, user: str = "", kind: str = "like", at: str = AT) -> dict[str, Any]:
    return {"FeedbackType": kind, "UserId": user, "ItemId": f"item-{item}", "Timestamp": at, "Value": 0}


def history(server: httpx.Client, user: str) -> list[str]:
    found: list[str] = server.get(f"/users/{user}/history").json()["items"]
    return found


def item_ids(scores: Any) -> list[str]:
    return [one["Id"] for one in scores]
