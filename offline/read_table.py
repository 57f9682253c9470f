"""Reads one data file of any supported format into Arrow columns, keeping track of lines for error messages.

    .inter .item   RecBole atomic file: tab separated, header of `name:type`, no quoting at all
    .csv           comma separated, double quotes, header of names
    .parquet       as it is
    .jsonl         one object a line

The whole file is held in memory as Arrow columns.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from offline.data_problems import BadRows, DataError

RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class RawTable:
    """A data file's rows in file order, those left out that could not be split into fields."""

    path: Path
    columns: Mapping[str, pa.ChunkedArray]
    """Text files: strings, "" for nothing; lists of strings where JSON Lines has lists. Parquet: as stored."""
    num_rows: int
    """Rows in `columns`."""
    bad_rows: BadRows
    """Has the rows left out already; whoever interprets the columns adds more, and settles."""
    total_rows: int
    """Rows of the file, those left out included."""
    recbole_types: Mapping[str, str]
    """Type of each column of an atomic file; empty for other formats."""
    first_record: int = 2
    """Number of the first row: 2 after a header."""
    left_out: tuple[int, ...] = ()
    """Numbers of the records that are not in `columns`, ascending."""

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns, in file order."""
        return tuple(self.columns)

    def line(self, row: int) -> int:
        """Line of the file where a row begins, from 1 (Parquet: the row's number, from 1)."""
        record = row + self.first_record
        for number in self.left_out:
            if number > record:
                break
            record += 1
        return record + self._newlines_before(row)

    def line_of_left_out(self, record: int) -> int:
        """As `line`, for a record that was left out."""
        rows_before = record - self.first_record - sum(number < record for number in self.left_out)
        return record + self._newlines_before(rows_before)

    def _newlines_before(self, row: int) -> int:
        """Line breaks inside the quoted fields of a CSV file's rows before this one."""
        if self.path.suffix != ".csv":
            return 0
        return sum(
            pc.sum(pc.count_substring(column.slice(0, row), "\n")).as_py() or 0 for column in self.columns.values()
        )

    def strings(self, name: str) -> pa.ChunkedArray:
        """A column as strings, "" for nothing.

        Raises:
            DataError: its type has no plain text form (lists, structures).
        """
        column = self.columns[name]
        if pa.types.is_string(column.type):
            return column.fill_null("") if column.null_count else column
        if pa.types.is_floating(column.type):
            # Other tools write a missing number as NaN.
            column = pc.if_else(pc.is_nan(column), None, column)
        try:
            return column.cast(pa.string()).fill_null("")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"column {name!r} holds {column.type}, where text or numbers are expected", self.path
            ) from error

    def texts(self, name: str) -> list[str]:
        """A column of any type, to be read by people: lists joined by commas, structures as JSON."""
        column = self.columns[name]
        if not pa.types.is_nested(column.type):
            return list(self.strings(name).to_pylist())
        return [", ".join(flat_texts(value)) for value in column.to_pylist()]


def read_table(path: Path) -> RawTable:
    """Reads a data file whole; its suffix says how.

    Raises:
        DataError: no rows, a bad header, or not the format its name says.
    """
    try:
        if path.suffix == ".parquet":
            table = _read_parquet(path)
        elif path.suffix == ".jsonl":
            table = _read_jsonl(path)
        else:
            table = _read_delimited(path, recbole=path.suffix != ".csv")
    except OSError as error:
        # Arrow reports damaged Parquet files as I/O errors as well.
        raise DataError(f"cannot be read: {error}", path) from error
    if not table.num_rows:
        # When nothing but bad rows is there, say what is wrong with them.
        table.bad_rows.settle(table.total_rows)
        raise DataError("the file has no rows", path)
    return table


def _read_delimited(path: Path, recbole: bool) -> RawTable:
    raw_header = _header(path, recbole)
    names, types = recbole_header(path, raw_header) if recbole else (raw_header, {})
    check_names(path, names)
    misfits: list[pyarrow.csv.InvalidRow] = []

    def keep_misfit(row: pyarrow.csv.InvalidRow) -> str:
        misfits.append(row)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            path,
            # One thread: Arrow numbers the rows it refuses only then.
            pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            pyarrow.csv.ParseOptions(
                delimiter="\t" if recbole else ",",
                quote_char=False if recbole else '"',
                newlines_in_values=not recbole,
                ignore_empty_lines=False,
                invalid_row_handler=keep_misfit,
            ),
            pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(raw_header, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"not {'tab' if recbole else 'comma'} separated text: {error}", path) from error
    bad_rows = BadRows(path)
    raw = RawTable(
        path=path,
        columns=dict(zip(names, table.columns, strict=True)),
        num_rows=table.num_rows,
        bad_rows=bad_rows,
        total_rows=table.num_rows + len(misfits),
        recbole_types=types,
        left_out=tuple(row.number for row in misfits),
    )
    if misfits:
        first = misfits[0]
        separator = "tabs" if recbole else "commas (quote a field that holds one)"
        bad_rows.add(
            "wrong number of fields",
            len(misfits),
            raw.line_of_left_out(first.number),
            f"{first.actual_columns} fields where the header has {first.expected_columns}; "
            f"fields are separated by {separator}",
        )
    return raw


def _header(path: Path, recbole: bool) -> list[str]:
    # Python's universal newlines would also split at a lone carriage return, as Arrow does.
    with path.open(encoding="utf-8-sig") as file:
        if recbole:
            return file.readline().rstrip("\n").split("\t")
        try:
            return next(csv.reader(file), [])
        except csv.Error as error:
            raise DataError(f"the header is not comma separated text: {error}", path, 1) from error


def recbole_header(path: Path, fields: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Names of an atomic file's columns, and the type of each.

    Raises:
        DataError: a field of the header is not name:type.
    """
    types: dict[str, str] = {}
    names = []
    for text in fields:
        name, _, kind = text.rpartition(":")
        if not name or kind not in RECBOLE_TYPES:
            raise DataError(
                f"header field {text!r} is not name:type with a type of {', '.join(RECBOLE_TYPES)}, "
                "separated by tabs. A CSV file's name must end in .csv",
                path,
                1,
            )
        names.append(name)
        types[name] = kind
    return names, types


def check_names(path: Path, names: Sequence[str]) -> None:
    """See that there are column names, each once.

    Raises:
        DataError: there are none, or one is there twice.
    """
    if not any(name.strip() for name in names):
        raise DataError("no header: the first line must name the columns", path, 1)
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise DataError(f"column {twice[0]!r} is there twice; rename one", path, 1)


def _read_parquet(path: Path) -> RawTable:
    try:
        table = pyarrow.parquet.read_table(path)
        # Strings that are not UTF-8 would fail later, far from here.
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"not a sound Parquet file: {error}", path) from error
    check_names(path, table.column_names)
    return RawTable(
        path=path,
        columns=dict(zip(table.column_names, table.columns, strict=True)),
        num_rows=table.num_rows,
        bad_rows=BadRows(path, "row"),
        total_rows=table.num_rows,
        recbole_types={},
        first_record=1,
    )


def _read_jsonl(path: Path) -> RawTable:
    rows: list[dict[str, Any]] = []
    left_out: list[int] = []
    bad: list[tuple[int, str]] = []
    number = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = orjson.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            except orjson.JSONDecodeError as error:
                left_out.append(number)
                if line.strip():
                    bad.append((number, f"not JSON: {error}; every line must hold one object"))
                continue
            if isinstance(row, dict):
                rows.append(row)
            else:
                left_out.append(number)
                bad.append((number, f"a JSON {type(row).__name__}; every line must hold one object"))
    names = dict.fromkeys(name for row in rows for name in row)
    bad_rows = BadRows(path)
    if bad:
        bad_rows.add("not a JSON object", len(bad), *bad[0])
    return RawTable(
        path=path,
        columns={name: _json_column([row.get(name) for row in rows]) for name in names},
        num_rows=len(rows),
        bad_rows=bad_rows,
        total_rows=len(rows) + len(bad),
        recbole_types={},
        first_record=1,
        left_out=tuple(left_out),
    )


def _json_column(values: Sequence[Any]) -> pa.ChunkedArray:
    if any(isinstance(value, list) for value in values):
        return pa.chunked_array([pa.array([list(flat_texts(value)) for value in values], pa.list_(pa.string()))])
    return pa.chunked_array([pa.array([v if type(v) is str else _json_text(v) for v in values], pa.string())])


def flat_texts(value: Any) -> Iterator[str]:
    """The texts of a list, of lists inside it too (some sources give paths of categories), or of a single value."""
    if isinstance(value, list):
        for part in value:
            yield from flat_texts(part)
    elif value is not None:
        yield _json_text(value)


def _json_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
