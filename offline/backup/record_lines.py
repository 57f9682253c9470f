"""Records as lines of JSON.

    {"key": "hist:ann", "type": "list", "ttl_ms": 7775999000, "value": [["item-1"], ["item-2"]]}

Bytes are text where they are UTF-8, else {"base64": "..."}. A key of many elements has several lines; all but the first
say "continued": true.
"""

import base64
import binascii
from typing import Any

import orjson

from offline.backup.redis_values import KINDS, Record

_FIELDS = {"key", "type", "ttl_ms", "value", "continued"}


def to_line(record: Record) -> bytes:
    """One line, its end included."""
    fields = {
        "key": _to_json(record.key),
        "type": record.kind,
        "ttl_ms": record.ttl_ms,
        "value": [[_to_json(part) for part in element] for element in record.elements],
    }
    return orjson.dumps(fields | ({"continued": True} if record.continued else {})) + b"\n"


def from_line(line: bytes) -> Record:
    """The record of a line.

    Raises:
        ValueError: it is none; the message does not repeat it.
    """
    fields = orjson.loads(line)
    if not isinstance(fields, dict) or not fields.keys() <= _FIELDS or fields.get("type") not in KINDS:
        raise ValueError("not an object of key, type, ttl_ms and value, or of an unknown type")
    kind, ttl_ms, value = fields["type"], fields.get("ttl_ms"), fields.get("value")
    if ttl_ms is not None and not (type(ttl_ms) is int and 0 < ttl_ms < 1 << 53):
        raise ValueError("ttl_ms is no whole number above 0")
    if not isinstance(value, list) or not value or not all(isinstance(element, list) for element in value):
        raise ValueError("value is not a list of lists")
    elements = tuple(tuple(_from_json(part) for part in element) for element in value)
    for element in elements:
        _check(kind, element, len(elements))
    return Record(_from_json(fields.get("key")), kind, ttl_ms, elements, fields.get("continued") is True)


def _check(kind: str, element: tuple[bytes, ...], count: int) -> None:
    match kind:
        case "string":
            fits = len(element) == 1 and count == 1
        case "list" | "set":
            fits = len(element) == 1
        case "hash":
            fits = len(element) == 2
        case "zset":
            # A score that is none is a ValueError too.
            fits = len(element) == 2 and float(element[1]) == float(element[1])
        case _:
            fits = len(element) >= 3 and len(element) % 2 == 1
    if not fits:
        raise ValueError(f"an element is none of a {kind}")


def _to_json(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _from_json(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error:
            raise ValueError("not base64") from None
    raise ValueError("neither text nor base64")
