"""A body of many rows: a JSON array, taken whole or not at all, or JSON Lines, where each line counts alone."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

JSON_LINES = "application/x-ndjson"
MAX_REPORTED = 1000
_LINES_AT_ONCE = 200

Row = TypeVar("Row", bound=BaseModel)


@dataclass
class PostedRows(Generic[Row]):
    """What was posted.

    Attributes:
        rows: in the order they came.
        numbers: of each, its place in the array from 0, or its line from 1.
        in_lines: whether it was JSON Lines.
        rejected: lines that are no such rows, and why.
    """

    rows: list[Row]
    numbers: list[int]
    in_lines: bool = False
    rejected: list[tuple[int, str]] = field(default_factory=list)

    def rejected_lines(self, reasons: Mapping[int, str]) -> dict[str, object]:
        """What an answer says of the lines that were not taken.

        Args:
            reasons: why rows were not taken that could be read, by their place in `rows`.
        """
        bad = sorted([*self.rejected, *((self.numbers[row], reason) for row, reason in reasons.items())])
        reported = [{"line": line, "reason": reason} for line, reason in bad[:MAX_REPORTED]]
        return {"rejected_lines": len(bad), "rejected": reported}


class RowsBody(Generic[Row]):
    """Reads rows of one kind.

    Args:
        kind: of a row.
        most: rows of an array at most.
        examples: rows as they may be sent.
    """

    def __init__(self, kind: type[Row], most: int, examples: Sequence[Mapping[str, Any]]) -> None:
        # Of a type that is known only here, which the checker of types cannot follow.
        rows: Any = Annotated[list[kind], Field(min_length=1, max_length=most)]  # type: ignore[valid-type]
        self._array: TypeAdapter[list[Row]] = TypeAdapter(rows)
        self._line = TypeAdapter(kind)
        schema = {"type": "array", "items": kind.model_json_schema(), "minItems": 1, "maxItems": most}
        lines = {"type": "string", "description": f"One {kind.__name__} in each line; empty lines are skipped."}
        text = "".join(json.dumps(example) + "\n" for example in examples)
        self.described: dict[str, Any] = {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": schema, "example": [examples[0]]},
                    JSON_LINES: {"schema": lines, "example": text},
                },
            }
        }
        """What FastAPI cannot find out by itself for the OpenAPI document."""

    async def read(self, request: Request) -> PostedRows[Row]:
        """Read the body.

        Raises:
            RequestValidationError: no array of such rows, JSON Lines without a line, or neither of the two.
        """
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await request.body()
        if media_type == JSON_LINES:
            return await self._lines(body)
        if media_type != "application/json" and not media_type.endswith("+json"):
            raise _invalid(("header", "content-type"), f"Send application/json, or {JSON_LINES}", "media_type")
        try:
            rows = self._array.validate_json(body)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None
        return PostedRows(rows, list(range(len(rows))))

    async def _lines(self, body: bytes) -> PostedRows[Row]:
        posted: PostedRows[Row] = PostedRows([], [], in_lines=True)
        read = 0
        for number, line in enumerate(body.split(b"\n"), start=1):
            if number % _LINES_AT_ONCE == 0:
                # A body can be tens of thousands of lines; others are served between them.
                await asyncio.sleep(0)
            if not line.strip():
                continue
            read += 1
            try:
                posted.rows.append(self._line.validate_json(line))
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
