"""What has been said of an item since its catalogue was published, and how one change after another adds up to it.

A record holds the fields that take the place of the catalogue's; what it lacks is as published. Folding the same
changes again, from whatever point on, leads to the same record: per field the last writer wins.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypedDict

import orjson

from model_store.catalog import document_of

Operation = Literal["put", "patch", "delete"]

_CHANGES = b"changes"

_logger = logging.getLogger(__name__)


class Place(TypedDict):
    """Where the quantizer of one line of versions has put an item that no catalogue had.

    Attributes:
        line: the cache version of the line.
        code: one codebook entry a level.
        vector: base64 of float32 [D], little endian, in the space of the line's item vectors.
        attempt: 0; more, where the code before turned out to be another item's.
    """

    line: str
    code: list[int]
    vector: str
    attempt: int


class ItemRecord(TypedDict, total=False):
    """Fields by their names in the API; `price` may be null, which is an unknown one."""

    title: str
    text: str
    categories: list[str]
    price: float | None
    attributes: dict[str, str]
    in_stock: bool
    hidden: bool
    deleted: bool
    place: Place


class ItemChange(NamedTuple):
    """One write.

    Attributes:
        item_id: of which item.
        operation: `put` sets every field, to its default where none is given; `patch` the given ones; `delete` leaves
            nothing but the place, which is never another item's.
        fields: the given ones.
    """

    item_id: str
    operation: Operation
    fields: ItemRecord


_DEFAULTS: ItemRecord = {
    "text": "",
    "categories": [],
    "price": None,
    "attributes": {},
    "in_stock": True,
    "hidden": False,
}


def fold(record: ItemRecord | None, change: ItemChange) -> ItemRecord:
    """The record after a change; neither argument is altered.

    Of two places in the same line and attempt the first one stays: two workers may have met a new item at once.
    """
    before: ItemRecord = record or {}
    kept: ItemRecord = {"place": before["place"]} if "place" in before else {}
    if change.operation == "delete":
        return {**kept, "deleted": True}
    start: ItemRecord = before if change.operation == "patch" else {**kept, **_DEFAULTS}
    after: ItemRecord = {**start, **change.fields}
    if "place" in kept:
        first, second = kept["place"], after["place"]
        if first["line"] == second["line"] and first["attempt"] >= second["attempt"]:
            after["place"] = first
    return after


def is_withheld(record: ItemRecord) -> bool:
    """Whether the item must not be shown, whatever a request asks."""
    return record.get("hidden", False) or record.get("deleted", False)


def document(item_id: str, record: ItemRecord) -> str:
    """What a text encoder reads of an item; its id where nothing is said of it."""
    title, text = record.get("title", ""), record.get("text", "")
    return document_of(title, record.get("attributes", {}), record.get("categories", []), text) or item_id


def pack_changes(changes: list[ItemChange]) -> dict[bytes, bytes]:
    """The fields of a log entry."""
    return {_CHANGES: orjson.dumps([list(change) for change in changes])}


def unpack_changes(fields: Mapping[bytes, bytes]) -> list[ItemChange]:
    """Read what `pack_changes` wrote; nothing where somebody else has written."""
    try:
        rows: list[tuple[str, Operation, Any]] = orjson.loads(fields[_CHANGES])
        return [ItemChange(*row) for row in rows]
    except (KeyError, ValueError, TypeError):
        # One entry that cannot be read must not keep a worker from those behind it.
        _logger.error("an entry of the item log cannot be read")
        return []
