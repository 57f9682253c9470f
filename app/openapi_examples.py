"""What requests and answers look like, for the OpenAPI document: one example for each operation.

They are of the demo's kind, and tests hold them to the schemas.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI

_JSON_LINES = "application/x-ndjson"

_ITEM = {"item_id": "item-204", "rank": 1, "score": -3.21, "code": "<u_17><v_203><x_88><y_4>", "reason": "cache"}
_POPULAR = _ITEM | {"score": 812.0, "reason": "popular"}
_NEIGHBOR = _ITEM | {"score": 0.87, "reason": "neighbors"}
_VERSION = "20260101-120000-5f3a"
_ANSWER = {
    "recommendation_id": "b7e2f41c9d0a4e6f",
    "user_id": "user-17",
    "items": [_ITEM],
    "source": "cache",
    "model_version": _VERSION,
    "generated_at": "2026-01-02T08:00:00+00:00",
    "age_s": 3600,
    "degraded": False,
    "shortfall_reason": None,
    "not_applied": {},
}

PATHS: Mapping[str, str] = {"user_id": "user-17", "item_id": "item-204"}
"""Examples of path parameters, by name."""

BODIES: Mapping[str, Any] = {
    "recommend": {"history": ["item-9", "item-31"], "n": 5, "category": ["garden"]},
    "recommend_to_users": {"user_ids": ["user-17", "user-18"], "n": 5},
    "rank": {"user_id": "user-17", "items": ["item-204", "item-9"]},
    "explain": {"user_id": "user-17", "item_id": "item-204"},
    "change_blocks": {"block": ["item-9"], "unblock": ["item-31"]},
    "write_items": [
        {"item_id": "item-204", "operation": "patch", "in_stock": False},
        {"item_id": "item-9", "operation": "delete"},
    ],
    "record_events": [
        {"user_id": "user-17", "item_id": "item-204", "type": "purchase", "timestamp": "2026-01-02T08:05:00Z"}
    ],
}
"""Examples of request bodies, by operation."""

ANSWERS: Mapping[str, Any] = {
    "recommend_to_user": _ANSWER,
    "recommend": _ANSWER | {"user_id": None},
    "recommend_to_users": {"answers": [_ANSWER, _ANSWER | {"user_id": "user-18"}]},
    "rank": {
        "user_id": "user-17",
        "items": [{name: _ITEM[name] for name in ("item_id", "rank", "score", "code")}],
        "unknown": ["item-9"],
        "model_version": _VERSION,
    },
    "record_events": {"accepted": 1, "duplicates": 0, "rejected": []},
    "write_items": {"accepted": 2, "rejected": []},
    "show_history": {"user_id": "user-17", "items": ["item-9", "item-31"]},
    "forget_user": {"user_id": "user-17", "existed": True},
    "similar": {"item_id": "item-9", "items": [_NEIGHBOR], "model_version": _VERSION},
    "latest": {"items": [_ITEM | {"score": 1767340800.0, "reason": "latest"}], "model_version": _VERSION},
    "show_blocks": {"user_id": "user-17", "items": ["item-9"], "unknown": []},
    "change_blocks": {"user_id": "user-17", "items": ["item-9"], "unknown": []},
    "quality": {
        "days": [
            {
                "day": "2026-01-02",
                "source": "cache",
                "model_version": _VERSION,
                "shown": 810,
                "hits": 27,
                "share": 0.0333,
            }
        ]
    },
    "popular": {"items": [_POPULAR], "model_version": _VERSION},
    "models": {
        "served": _VERSION,
        "models": [
            {
                "version": _VERSION,
                "created_at": "2026-01-01T12:00:00+00:00",
                "recipe": "semantic-convergence",
                "items": 800,
                "metrics": {"recall@10": 0.13},
                "served": True,
            }
        ],
        "unreadable": {},
    },
    "live": {"status": "ok"},
    "ready": {
        "status": "ready",
        "model_version": _VERSION,
        "dependencies": {
            "model": {"ok": True, "configured": True, "detail": None},
            "redis": {"ok": True, "configured": True, "detail": None},
            "decoder": {"ok": False, "configured": False, "detail": "this deployment has no decoder"},
        },
    },
    "export_events": '{"user_id":"user-17","item_id":"item-9"}\n{"user_id":"user-17","item_id":"item-31"}\n',
    "export_items": '{"item_id":"item-9","title":"Garden chair","text":"","categories":["garden"],"price":49.9,'
    '"attributes":{},"in_stock":true,"hidden":false}\n',
    "metrics": 'tessera_requests_total{method="GET",route="/popular",status="200"} 3.0\n',
    "latency": {
        "latencies": [
            {
                "route": "/popular",
                "source": "",
                "count": 3,
                "p50_ms": 0.4,
                "p90_ms": 0.5,
                "p95_ms": 0.6,
                "p99_ms": 0.7,
                "max_ms": 0.7,
            },
        ],
        "minutes": 5,
    },
    "explain": {
        "user_id": "user-17",
        "item_id": "item-204",
        "code": _ITEM["code"],
        "model_version": _VERSION,
        "source": "cache",
        "verdict": "outranked",
        "removed_by": [],
        "rank": None,
        "cached_rank": 14,
        "cached_items": 20,
        "score": -7.9,
        "last_score": -6.4,
        "score_unavailable": None,
        "shared_codes": 2,
        "outranked_at_level": 3,
    },
}
"""Examples of answers that are a success, by operation."""


def install(app: FastAPI) -> None:
    """Put the examples into the document of `app`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for methods in document["paths"].values():
            for operation in methods.values():
                _describe(operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in PATHS:
            parameter["example"] = PATHS[parameter["name"]]
    if name in BODIES:
        for media_type, content in operation["requestBody"]["content"].items():
            content["example"] = _lines(BODIES[name]) if media_type == _JSON_LINES else BODIES[name]
    if name in ANSWERS:
        for status, said in operation["responses"].items():
            for content in said.get("content", {}).values() if status.startswith("2") else ():
                content["example"] = ANSWERS[name]


def _lines(rows: Iterable[Any]) -> str:
    return "".join(f"{orjson.dumps(row).decode()}\n" for row in rows)
