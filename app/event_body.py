"""The body of `POST /events`: a JSON array, taken whole or not at all, or JSON Lines, where each line counts alone."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError

from app.event_schemas import Event
from app.schemas import MAX_EVENTS

JSON_LINES = "application/x-ndjson"
MAX_REPORTED = 1000
_LINES_AT_ONCE = 200

_array = TypeAdapter(Annotated[list[Event], Field(min_length=1, max_length=MAX_EVENTS)])
_line = TypeAdapter(Event)

_EXAMPLE = {"user_id": "ann", "item_id": "B000F83SZQ", "type": "view", "id": "7f3a9c"}

DESCRIBED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "array",
                    "items": Event.model_json_schema(),
                    "minItems": 1,
                    "maxItems": MAX_EVENTS,
                },
                "example": [_EXAMPLE],
            },
            JSON_LINES: {
                "schema": {"type": "string", "description": "One Event in each line; empty lines are skipped."},
                "example": '{"user_id": "ann", "item_id": "B000F83SZQ"}\n{"user_id": "bob", "item_id": "B000F83SZQ"}\n',
            },
        },
    }
}
"""What FastAPI cannot find out by itself for the OpenAPI document."""


@dataclass
class PostedEvents:
    """What was posted.

    Attributes:
        events: in the order they came.
        numbers: of each, its row in the array from 0, or its line from 1.
        in_lines: whether it was JSON Lines.
        rejected: lines that are no events, and why.
    """

    events: list[Event]
    numbers: list[int]
    in_lines: bool = False
    rejected: list[tuple[int, str]] = field(default_factory=list)


async def posted_events(request: Request) -> PostedEvents:
    """Read the body.

    Raises:
        RequestValidationError: no array of events, JSON Lines without a line, or neither of the two.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if media_type == JSON_LINES:
        return await _lines(body)
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise _invalid(("header", "content-type"), f"Send application/json, or {JSON_LINES}", "media_type")
    try:
        events = _array.validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None
    return PostedEvents(events, list(range(len(events))))


async def _lines(body: bytes) -> PostedEvents:
    posted = PostedEvents([], [], in_lines=True)
    read = 0
    for number, line in enumerate(body.split(b"\n"), start=1):
        if number % _LINES_AT_ONCE == 0:
            # A body can be tens of thousands of lines; others are served between them.
            await asyncio.sleep(0)
        if not line.strip():
            continue
        read += 1
        try:
            posted.events.append(_line.validate_json(line))
            posted.numbers.append(number)
        except ValidationError as error:
            posted.rejected.append((number, _reason(error)))
    if not read:
        raise _invalid(("body",), "There is no line in it", "too_short")
    return posted


def _reason(error: ValidationError) -> str:
    """What is wrong with a line. What was sent is not repeated."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join((*map(str, one["loc"][:1]), one["msg"])) for one in found[:5])


def _invalid(location: tuple[str, ...], message: str, kind: str) -> RequestValidationError:
    return RequestValidationError([{"loc": location, "msg": message, "type": kind}])
