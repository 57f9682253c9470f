"""Rows to a file as they come: CSV, Parquet or JSON Lines by its suffix, or JSON Lines on standard output."""

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from model_store.errors import TesseraError
from offline.whole_file import whole_file

STDOUT = Path("-")
SUFFIXES = (".csv", ".parquet", ".jsonl")
_LIST_MARK = "|"

Write = Callable[[Sequence[Mapping[str, Any]]], None]


@contextmanager
def row_file(path: Path, schema: pa.Schema) -> Iterator[Write]:
    """A function that writes rows of `schema`. The file has its name when it is whole, and is for its owner alone.

    Args:
        path: of the file; `-` for standard output.
        schema: columns; values of a `pa.list_` are separated by `|` in CSV.

    Raises:
        TesseraError: the suffix is of no known format, or the file cannot be written; what was there stays.
    """
    if path == STDOUT:
        yield _json_lines(sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    if path.suffix not in SUFFIXES:
        raise TesseraError(f"{path}: the suffix says the format: {', '.join(SUFFIXES)}; or - for standard output")
    with whole_file(path) as file:
        if path.suffix == ".parquet":
            with pq.ParquetWriter(file, schema) as parquet:
                yield lambda rows: parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema))
        elif path.suffix == ".csv":
            text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            yield _csv(text, schema)
            text.flush()
            text.detach()
        else:
            yield _json_lines(file)


def _json_lines(file: IO[bytes]) -> Write:
    def write(rows: Sequence[Mapping[str, Any]]) -> None:
        file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    return write


def _csv(file: TextIOWrapper, schema: pa.Schema) -> Write:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(schema.names)

    def write(rows: Sequence[Mapping[str, Any]]) -> None:
        writer.writerows([_cell(row[name], name) for name in schema.names] for row in rows)

    return write


def _cell(value: Any, column: str) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        if any(_LIST_MARK in part for part in value):
            raise TesseraError(f"CSV: a value of {column} holds {_LIST_MARK!r}, which separates them; take .jsonl")
        # The last mark tells a reader which one separates, even where there is one value with a comma in it.
        return "".join(part + _LIST_MARK for part in value)
    return value
