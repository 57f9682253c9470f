"""The OpenAPI document of the application, taken apart, so that tests cover whatever routes there are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.main import create_app
from app.settings import Settings


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        method: in small letters.
        path: template.
        described: its part of the document.
    """

    method: str
    path: str
    described: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.described["operationId"])

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return list(self.described.get("parameters", ()))

    @property
    def body_schema(self) -> dict[str, Any] | None:
        content = self.described.get("requestBody", {}).get("content", {})
        return content["application/json"]["schema"] if "application/json" in content else None


@cache
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations() -> list[Operation]:
    return [
        Operation(method, path, described)
        for path, methods in document()["paths"].items()
        for method, described in methods.items()
    ]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema behind its references."""
    while "$ref" in schema:
        found: Any = document()
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def valid_value(schema: dict[str, Any]) -> Any:
    """Something small that the schema takes."""
    schema = resolved(schema)
    for key in ("example", "const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return valid_value(schema["anyOf"][0])
    match schema.get("type"):
        case "object":
            return {name: valid_value(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [valid_value(schema["items"])] * max(1, schema.get("minItems", 0))
        case "integer" | "number":
            return max(1, schema.get("minimum", 0))
        case "boolean":
            return True
    if schema.get("format") == "date-time":
        return "2026-01-02T03:04:05Z"
    return "item-1"


def fields(schema: dict[str, Any], at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the values of a body are, the body as a whole first."""
    schema = resolved(schema)
    yield at
    for choice in schema.get("anyOf", ()):
        if resolved(choice).get("type") in ("object", "array"):
            yield from (found for found in fields(choice, at) if found != at)
    for name, field in schema.get("properties", {}).items():
        yield from fields(field, (*at, name))
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], (*at, 0))


def body_with(schema: dict[str, Any], at: tuple[str | int, ...], value: Any) -> Any:
    """A small body that has `value` at a place, and what the schema requires beside it."""
    if not at:
        return value
    schema = resolved(schema)
    if "anyOf" in schema:
        kind = "array" if at[0] == 0 else "object"
        schema = next(one for one in map(resolved, schema["anyOf"]) if one.get("type") == kind)
    if at[0] == 0:
        return [body_with(schema["items"], at[1:], value)]
    base = valid_value(schema)
    return {**base, at[0]: body_with(schema["properties"][at[0]], at[1:], value)}


def filled(path: str, name: str | None = None, value: str = "item-1") -> str:
    """A template with its parameters filled in, one of them by `value`, which must be quoted."""
    return re.sub(r"\{(\w+)\}", lambda found: value if found[1] == name else "item-1", path)
