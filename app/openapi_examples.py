"""What requests and answers look like, for the OpenAPI document: one example for each operation.

They are of the demo's kind, and tests hold them to the schemas.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import FastAPI

from app.gorse import examples as gorse

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

_SHOWN_ITEM = {
    "item_id": "item-204",
    "title": "Oak planter, 60 cm",
    "text": "For herbs and small shrubs.",
    "categories": ["garden", "planters"],
    "price": 49.9,
    "attributes": {"brand": "Larch & Sons"},
    "in_stock": True,
    "hidden": False,
    "code": _ITEM["code"],
    "decodable": True,
    "not_decodable": None,
}
_ACTIVATED = {
    "version": _VERSION,
    "before": "20251224-080000-9c1e",
    "cached_lists": 2000,
    "cached_lists_estimated": False,
    "warning": None,
}
_JOB_ID = "4be19c0a77d2f035"
_JOB = {
    "id": _JOB_ID,
    "status": "running",
    "cancelling": False,
    "mode": "stale",
    "version": _VERSION,
    "budget_users": 5000,
    "budget_s": None,
    "users": None,
    "created_at": 1767340800.0,
    "started_at": 1767340801.5,
    "ended_at": None,
    "users_done": 1200,
    "users_total": 5000,
    "users_per_second": 400.0,
    "left_s": 9.5,
    "error": None,
    "starts": 1,
}
_DEPENDENCIES = {
    "model": {"ok": True, "configured": True, "detail": None},
    "redis": {"ok": True, "configured": True, "detail": None},
    "decoder": {"ok": False, "configured": False, "detail": "this deployment has no decoder"},
}

PATHS: Mapping[str, str] = {
    **gorse.PATHS,
    "user_id": "user-17",
    "item_id": "item-204",
    "version": _VERSION,
    "job_id": _JOB_ID,
}
"""Examples of path parameters, by name."""

BODIES: Mapping[str, Any] = {
    **gorse.BODIES,
    "recommend": {"history": ["item-9", "item-31"], "n": 5, "category": ["garden"]},
    "recommend_to_users": {"user_ids": ["user-17", "user-18"], "n": 5},
    "rank": {"user_id": "user-17", "items": ["item-204", "item-9", "item-31"]},
    "explain": {"user_id": "user-17", "item_id": "item-204"},
    "change_blocks": {"block": ["item-9"], "unblock": ["item-31"]},
    "look_up_items": {"ids": ["item-204", "item-9"]},
    "write_items": [
        {"item_id": "item-204", "operation": "patch", "price": 44.9},
        {"item_id": "item-900", "title": "Slate birdbath", "categories": ["garden"], "price": 39.0},
        {"item_id": "item-31", "operation": "delete"},
    ],
    "put_item": {
        "title": "Oak planter, 60 cm",
        "text": "For herbs and small shrubs.",
        "categories": ["garden", "planters"],
        "price": 49.9,
        "attributes": {"brand": "Larch & Sons"},
    },
    "patch_item": {"in_stock": False},
    "ask_for_refresh": {"mode": "stale", "budget_users": 5000},
    "record_events": [
        {"user_id": "user-17", "item_id": "item-204", "type": "purchase", "timestamp": "2026-01-02T08:05:00Z"}
    ],
}
"""Examples of request bodies, by operation."""

ANSWERS: Mapping[str, Any] = {
    **gorse.ANSWERS,
    "recommend_to_user": _ANSWER,
    "recommend": _ANSWER | {"user_id": None},
    "recommend_to_users": {"answers": [_ANSWER, _ANSWER | {"user_id": "user-18"}]},
    "rank": {
        "user_id": "user-17",
        "items": [{name: _ITEM[name] for name in ("item_id", "rank", "score", "code")}],
        "unknown": ["item-9"],
        "withheld": [{"item_id": "item-31", "reason": "out_of_stock"}],
        "model_version": _VERSION,
        "ranker": None,
    },
    "record_events": {"accepted": 1, "duplicates": 0, "rejected": []},
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
    "list_catalogue": {"items": [_SHOWN_ITEM], "next": "item-204"},
    "write_items": {"accepted": 2, "rejected": [{"row": 2, "item_id": "item-31", "reason": "unknown_item"}]},
    "show_item": _SHOWN_ITEM,
    "put_item": _SHOWN_ITEM,
    "patch_item": _SHOWN_ITEM | {"in_stock": False},
    "delete_item": {"item_id": "item-204", "deleted": True},
    "look_up_items": {
        "items": [
            {
                "item_id": "item-204",
                "title": "Oak planter, 60 cm",
                "categories": ["garden", "planters"],
                "price": 49.9,
                "available": True,
                "code": _ITEM["code"],
            }
        ],
        "unknown": ["item-9"],
        "model_version": _VERSION,
    },
    "activate_version": _ACTIVATED,
    "roll_back": _ACTIVATED,
    "newest_refreshes": {"worker": True, "jobs": [_JOB]},
    "ask_for_refresh": _JOB
    | {"status": "queued", "started_at": None, "starts": 0}
    | dict.fromkeys(("users_done", "users_total", "users_per_second", "left_s")),
    "show_refresh": _JOB,
    "cancel_refresh": _JOB | {"cancelling": True},
    "show_overview": {
        "generated_at": 1767340805.0,
        "served": _VERSION,
        "takes_queries": True,
        "status": "ready",
        "dependencies": _DEPENDENCIES,
        "traffic": {
            "minutes": [1767340740, 1767340800],
            "answers": {"cache": [4100, 320], "live": [12, 0]},
            "failed": [0, 0],
            "fresh_share": [0.9971, 1.0],
            "latency": {"p50_ms": [0.3, 0.3], "p95_ms": [0.6, 0.5], "p99_ms": [14.0, 0.9]},
        },
        "cache": {
            "cache_version": _VERSION,
            "measured_at": 1767340620,
            "entries": 2000,
            "histories": 2004,
            "coverage": 0.998,
            "entries_estimated": False,
            "histories_estimated": False,
            "sampled": 1000,
            "median_age_s": 3600,
            "ages": [{"up_to_s": 3600, "share": 0.52}, {"up_to_s": None, "share": 0.48}],
            "examples": ["user-17"],
        },
        "caches": [_VERSION],
        "redis": {"used_bytes": 3145728, "max_bytes": None, "nodes": 1},
        "refresh": {"worker": True, "jobs": [_JOB]},
    },
    "live": {"status": "ok"},
    "ready": {
        "status": "ready",
        "model_version": _VERSION,
        "dependencies": _DEPENDENCIES,
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
