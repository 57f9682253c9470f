"""A file of new and changed items, checked row by row: the sound rows are taken, the others are named with their lines.

In a data folder few bad rows are dropped and many stop the reading (`offline.data_problems`). Here every row was
written to be served, and the file may be three lines long: what is wrong with each is said. A column or cell that is
not there says nothing about an item the catalogue has already.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.column_names import ColumnNames
from offline.data_problems import BadRows, DataError
from offline.dataset_files import DataFiles, check_and_digest
from offline.item_table import read_items
from offline.parse_columns import parse_flags, parse_numbers
from offline.read_table import RawTable, read_table
from offline.rejected_rows import RejectedRow
from offline.stream_rows import stream_rows

_SHOWN = 5


class NothingAccepted(DataError):
    """A file without a sound row; `rejected` are those it has."""

    def __init__(self, message: str, path: Path, rejected: list[RejectedRow]) -> None:
        super().__init__(message, path)
        self.rejected = rejected


@dataclass(frozen=True)
class ItemAdditions:
    """What a file says about items.

    Attributes:
        catalog: its sound rows, completed with what the catalogue knows of items it has already.
        rejected: its other rows, in the order of the file.
        fingerprint: sha256 over its name, size and bytes, hex.
    """

    catalog: Catalog
    rejected: tuple[RejectedRow, ...]
    fingerprint: str


def read_additions(path: Path, columns: ColumnNames, known: Catalog) -> ItemAdditions:
    """Read a CSV, JSON Lines, Parquet or RecBole `.item` file, by its suffix.

    Args:
        path: the file.
        columns: which column holds what.
        known: the catalogue to add to.

    Raises:
        DataError: the file cannot be read or has no id column.
        NothingAccepted: it has no sound row; the message names its first bad ones.
    """
    fingerprint = check_and_digest(DataFiles(path.stem, (path,), None))
    table = read_table(path)
    rejected = _unread_rows(table)
    # From here on the other rows count as bad, not these.
    table = replace(table, bad_rows=BadRows(path, table.bad_rows.unit), total_rows=table.num_rows)
    reasons = _bad_rows(table, columns)
    rejected += [RejectedRow(table.line(row), reason, table.bad_rows.unit) for row, reason in reasons.items()]
    rejected = _with_texts(path, sorted(rejected, key=lambda row: row.line))
    if len(reasons) == table.num_rows:
        shown = "; ".join(map(str, rejected[:_SHOWN]))
        more = f"; and {len(rejected) - _SHOWN} more" if len(rejected) > _SHOWN else ""
        raise NothingAccepted(f"no row can be taken: {shown}{more}", path, rejected)
    sound = _rows(table, [row for row in range(table.num_rows) if row not in reasons])
    catalog = read_items(sound, columns).catalog
    return ItemAdditions(_completed(catalog, sound, columns, known), tuple(rejected), fingerprint)


def _with_texts(path: Path, rejected: list[RejectedRow]) -> list[RejectedRow]:
    """The rows with what stands there; of a record of several lines, the first."""
    wanted = {row.line for row in rejected}
    texts: dict[int, str] = {}
    if path.suffix == ".parquet":
        texts = {row.line: row.text for row in stream_rows(path) if row.line in wanted}
    elif wanted:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            texts = {number: line.rstrip("\r\n") for number, line in enumerate(lines, start=1) if number in wanted}
    return [replace(row, text=texts.get(row.line, "")) for row in rejected]


def _unread_rows(table: RawTable) -> list[RejectedRow]:
    """Rows that could not be split into fields; blank lines of JSON Lines are none."""
    if table.path.suffix != ".jsonl":
        return [
            RejectedRow(table.line_of_left_out(record), "not as many fields as the header has")
            for record in table.left_out
        ]
    lines = table.path.read_bytes().split(b"\n")
    return [
        RejectedRow(number, "not a JSON object; every line must hold one")
        for number in table.left_out
        if lines[number - 1].strip()
    ]


def _bad_rows(table: RawTable, columns: ColumnNames) -> dict[int, str]:
    """What is wrong with each row that cannot be taken; the first thing, where several are."""
    reasons: dict[int, str] = {}
    item_ids = table.strings(columns.require("item", table.header, table.path)).to_pylist()
    first_row: dict[str, int] = {}
    for row, item_id in enumerate(item_ids):
        if not item_id.strip():
            reasons[row] = "no item id; every item needs one"
            continue
        first = first_row.setdefault(item_id, row)
        if first != row and any(column[row] != column[first] for column in table.columns.values()):
            reasons[row] = f"item {item_id!r} is there already, and differently, in line {table.line(first)}"
    for what, bad, expected in (
        ("price", _bad_prices, "a plain number such as 12.99, or empty"),
        ("available", _bad_flags, "true, false or empty"),
    ):
        name = columns.find(what, table.header, table.path)
        if name is None:
            continue
        strings = table.strings(name)
        for row in np.flatnonzero(bad(strings)).tolist():
            reasons.setdefault(row, f"{name} {strings[row].as_py()!r} is not {expected}")
    return reasons


def _bad_prices(strings: pa.ChunkedArray) -> NDArray[np.bool_]:
    numbers = parse_numbers(strings)
    return numbers.bad | (numbers.values < 0) | (numbers.values > np.finfo(np.float32).max)


def _bad_flags(strings: pa.ChunkedArray) -> NDArray[np.bool_]:
    return parse_flags(strings, default=True)[1]


def _rows(table: RawTable, rows: list[int]) -> RawTable:
    columns = {name: column.take(pa.array(rows)) for name, column in table.columns.items()}
    return replace(table, columns=columns, num_rows=len(rows), total_rows=len(rows), left_out=())


def _completed(catalog: Catalog, table: RawTable, columns: ColumnNames, known: Catalog) -> Catalog:
    """Keep the known title and availability of items for which the file gives none; the other fields show it."""
    item_ids = table.strings(columns.require("item", table.header, table.path)).to_pylist()
    untitled = _without(item_ids, _is_blank, table, columns.find("title", table.header, table.path))
    unstocked = _without(item_ids, _is_unknown_flag, table, columns.find("available", table.header, table.path))
    titles, available = list(catalog.titles), catalog.available.copy()
    for index, item_id in enumerate(catalog.item_ids):
        if item_id not in known:
            continue
        at = known.index_of(item_id)
        if item_id in untitled:
            titles[index] = known.titles[at]
        if item_id in unstocked:
            available[index] = known.available[at]
    return replace(catalog, titles=tuple(titles), available=available)


def _without(
    item_ids: list[str], is_nothing: Callable[[pa.ChunkedArray], NDArray[np.bool_]], table: RawTable, name: str | None
) -> set[str]:
    """The items for which a column says nothing."""
    if name is None:
        return set(item_ids)
    return {item_ids[row] for row in np.flatnonzero(is_nothing(table.strings(name)))}


def _is_blank(strings: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.array([not text.strip() for text in strings.to_pylist()], dtype=np.bool_)


def _is_unknown_flag(strings: pa.ChunkedArray) -> NDArray[np.bool_]:
    # Only what is neither yes nor no depends on the default.
    yes_or_nothing, yes = (parse_flags(strings, default=default)[0] for default in (True, False))
    return yes_or_nothing & ~yes
