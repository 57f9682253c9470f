"""What Redis replies, as the rest of the application takes it."""

from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from model_store.item_log import LogEntry


def error_code(error: Exception) -> str | None:
    """What Redis calls it where the client has no name for it: MISCONF for a full disk, NOREPLICAS, ..."""
    code = str(error).partition(" ")[0]
    return code if type(error) is ResponseError and code.isupper() and code != "ERR" else None


def texts(values: Iterable[bytes]) -> tuple[str, ...]:
    """Ids as text, whatever their bytes."""
    return tuple(value.decode(errors="replace") for value in values)


def text(value: bytes | None) -> str | None:
    """A name as text, None where there is none."""
    return value.decode(errors="replace") if value else None


def log_entry(entry_id: bytes, fields: Any) -> LogEntry:
    """An entry of a stream, of which redis-py makes a dictionary and its reader a list of names and values."""
    if isinstance(fields, dict):
        return entry_id, fields
    return entry_id, dict(zip(fields[::2], fields[1::2], strict=True))
