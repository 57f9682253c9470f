"""One file of events, checked row by row and gathered by user, in bounded memory.

Sound rows are dealt out by user into temporary files, each small enough to be sorted in memory: the events of a user
may be anywhere in the file, and their histories together larger than the machine.
"""

import math
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from offline.column_names import ColumnNames
from offline.data_problems import DataError
from offline.parse_columns import unix_seconds
from offline.rejected_rows import RejectedRow, Rejections
from offline.stream_rows import Row, stream_rows

_ID = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
"""What the API takes as an id: another could be recorded, and never asked for."""
_BYTES_OF_PART = 16 << 20
_BYTES_OF_ROW = 32
_MOST_PARTS = 512
_ROWS_IN_MEMORY = 200_000
_HEADER_ROWS = 1000
_SCHEMA = pa.schema(
    [("user", pa.string()), ("item", pa.string()), ("type", pa.string()), ("time", pa.float64()), ("row", pa.int64())]
)


@dataclass
class EventCounts:
    """What was found in a file.

    Attributes:
        accepted: rows that were taken, those that repeat one included.
        duplicates: accepted rows that agree with one before in user, item, type and time, and say nothing new.
        unknown_items: accepted rows of an item the served catalogue has not; None where there is no catalogue to ask.
        users: with an accepted row.
    """

    accepted: int = 0
    duplicates: int = 0
    unknown_items: int | None = None
    users: int = 0


@dataclass(frozen=True)
class _Event:
    user: str
    item: str
    type: str
    time: float


class EventFile:
    """A file of events.

    Args:
        path: CSV, Parquet, JSON Lines or RecBole `.inter`, by its suffix.
        columns: which column holds what. Without a column of times, the order of the file is that of the events.
        is_known: whether the served catalogue has an item; None where there is none.
        strict_items: reject rows of items that it has not.
    """

    def __init__(
        self,
        path: Path,
        columns: ColumnNames,
        is_known: Callable[[str], bool] | None = None,
        *,
        strict_items: bool = False,
    ) -> None:
        self._path = path
        self._columns = columns
        self._is_known = is_known
        self._strict_items = strict_items
        self.counts = EventCounts(unknown_items=None if is_known is None else 0)

    def histories(self, rejections: Rejections) -> Iterator[list[tuple[str, list[str]]]]:
        """Users with their items, oldest first; some users at a time, each of them once.

        Args:
            rejections: takes the rows that are not sound; all of them are known when the first users are given.

        Raises:
            DataError: the file cannot be read, or has no column of users or items.
        """
        with ExitStack() as stack:
            count = min(max(-(-_size(self._path) // _BYTES_OF_PART), 1), _MOST_PARTS)
            parts = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
            with ExitStack() as writing:
                writers = [writing.enter_context(pa.ipc.new_stream(part, _SCHEMA)) for part in parts]
                self._deal_out(rejections, writers)
            for part in parts:
                part.seek(0)
                with pa.ipc.open_stream(part) as reader:
                    table = reader.read_all()
                histories = self._by_user(table)
                self.counts.users += len(histories)
                yield histories

    def _deal_out(self, rejections: Rejections, writers: list[Any]) -> None:
        most = max(_ROWS_IN_MEMORY // len(writers), 1)
        waiting: list[list[tuple[str, str, str, float, int]]] = [[] for _ in writers]
        for number, event in enumerate(self._events(rejections)):
            part = zlib.crc32(event.user.encode()) % len(writers)
            waiting[part].append((event.user, event.item, event.type, event.time, number))
            if len(waiting[part]) == most:
                _write(writers[part], waiting[part])
                waiting[part] = []
        for writer, rows in zip(writers, waiting, strict=True):
            _write(writer, rows)

    def _events(self, rejections: Rejections) -> Iterator[_Event]:
        unit = "row" if self._path.suffix == ".parquet" else "line"
        names: _Names | None = None
        for row in self._rows():
            if names is None and row.values is not None:
                names = _Names.of(self._columns, tuple(row.values), self._path)
            event = row.problem if names is None or row.values is None else self._event(row, names)
            if isinstance(event, str):
                rejections.add(RejectedRow(row.line, event, unit, row.text))
                continue
            self.counts.accepted += 1
            yield event

    def _rows(self) -> Iterator[Row]:
        """The rows; a JSON object says only which columns it has itself, so that the first ones are asked together."""
        rows = stream_rows(self._path)
        if self._path.suffix != ".jsonl":
            yield from rows
            return
        first = [row for row, _ in zip(rows, range(_HEADER_ROWS), strict=False)]
        header = dict.fromkeys(name for row in first if row.values is not None for name in row.values)
        for row in first:
            yield Row(row.line, row.text, None if row.values is None else header | dict(row.values), row.problem)
        yield from rows

    def _event(self, row: Row, names: "_Names") -> _Event | str:
        """The event of a row, or what is wrong with it."""
        assert row.values is not None
        texts = []
        for what, name in (("user", names.user), ("item", names.item)):
            text = _text(row.values.get(name))
            if text is None or not text.strip():
                return f"no {name}; every event needs a user and an item"
            if not _ID.fullmatch(text):
                return f"{name} is no {what} id: at most 256 characters, none of them a control character"
            texts.append(text)
        time = 0.0
        if names.time is not None:
            time = _seconds(row.values.get(names.time))
            if math.isnan(time):
                return f"{names.time} is no time: a number (Unix seconds, or a position) or an ISO 8601 date"
        if self._is_known is not None and self.counts.unknown_items is not None and not self._is_known(texts[1]):
            if self._strict_items:
                return f"{names.item} is not in the served catalogue"
            self.counts.unknown_items += 1
        kind = "" if names.type is None else _text(row.values.get(names.type)) or ""
        return _Event(texts[0], texts[1], kind, time)

    def _by_user(self, table: pa.Table) -> list[tuple[str, list[str]]]:
        order = pc.sort_indices(table, sort_keys=[("user", "ascending"), ("time", "ascending"), ("row", "ascending")])
        columns = [table[name].take(order).to_pylist() for name in ("user", "item", "type", "time")]
        found = []
        for user, events in groupby(zip(*columns, strict=True), key=lambda event: event[0]):
            items: list[str] = []
            for _, same_time in groupby(events, key=lambda event: event[3]):
                rows = list(same_time)
                distinct = dict.fromkeys(rows)
                self.counts.duplicates += len(rows) - len(distinct)
                items += [event[1] for event in distinct]
            found.append((user, items))
        return found


@dataclass(frozen=True)
class _Names:
    user: str
    item: str
    time: str | None
    type: str | None

    @classmethod
    def of(cls, columns: ColumnNames, header: tuple[str, ...], path: Path) -> "_Names":
        user, item = (columns.require(what, header, path) for what in ("user", "item"))
        return cls(user, item, columns.find("timestamp", header, path), columns.find("event_type", header, path))


def _size(path: Path) -> int:
    """About how many bytes the events of a file are as text."""
    if path.suffix != ".parquet":
        return path.stat().st_size
    try:
        with pq.ParquetFile(path) as file:
            return int(file.metadata.num_rows) * _BYTES_OF_ROW
    except pa.ArrowInvalid as error:
        raise DataError(f"not a sound Parquet file: {error}", path) from error


def _write(writer: Any, rows: list[tuple[str, str, str, float, int]]) -> None:
    if rows:
        arrays = [pa.array(column, kind.type) for column, kind in zip(zip(*rows, strict=True), _SCHEMA, strict=True)]
        writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))


def _text(value: Any) -> str | None:
    """An id or a word; None for what has no plain text form."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        # Other tools write whole numbers with gaps between them as fractions.
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: Any) -> float:
    """A time as Unix seconds or whatever number stands for it; NaN for what is none."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    if isinstance(value, str):
        try:
            number = math.nan if "_" in value else float(value)
        except ValueError:
            return unix_seconds(value)
        return number if math.isfinite(number) else math.nan
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return math.nan


def require_file(path: Path) -> None:
    """See that a path leads to a file.

    Raises:
        DataError: it does not.
    """
    if not path.is_file():
        raise DataError("no such file" if not path.exists() else "is neither a file nor a folder", path)
