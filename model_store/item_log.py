"""The log of item changes (`Keys.items_log`), read: ids of its entries, and what they make of records.

Whoever begins reads `Keys.items_upto` first, then the snapshot `Keys.items`, which may be ahead of it, then the log
from there. Folding an entry again does no harm.
"""

from collections.abc import Iterable
from typing import TypeAlias

from model_store.item_records import ItemRecord, fold, unpack_changes

LogId = tuple[int, int]
LogEntry: TypeAlias = tuple[bytes, dict[bytes, bytes]]
"""An entry's id and fields, as Redis gives them."""
BEGINNING: LogId = (0, 0)


def parse_id(entry_id: bytes) -> LogId:
    """An id of a log entry, comparable."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


def format_id(entry_id: LogId) -> str:
    """An id the way Redis writes it."""
    return f"{entry_id[0]}-{entry_id[1]}"


def format_next(cursor: LogId) -> str:
    """Where to read on behind an entry."""
    return format_id((cursor[0], cursor[1] + 1))


def fold_entry(records: dict[str, ItemRecord], cursor: LogId, entry: LogEntry) -> LogId:
    """Fold an entry into `records`, unless it is not behind the cursor; gives the cursor after it."""
    entry_id, fields = entry
    at = parse_id(entry_id)
    if at <= cursor:
        return cursor
    for change in unpack_changes(fields):
        records[change.item_id] = fold(records.get(change.item_id), change)
    return at


def changed_ids(entries: Iterable[LogEntry]) -> set[str]:
    """The items that entries are about."""
    return {change.item_id for _, fields in entries for change in unpack_changes(fields)}
