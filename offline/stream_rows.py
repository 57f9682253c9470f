"""Reads a data file row by row, however large it is: CSV, RecBole `.inter`, JSON Lines, Parquet, by its suffix.

`offline.read_table` holds a file whole, to see all of a column at once; here no more than a line, or a batch of a
Parquet file, is in memory.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from offline.data_problems import DataError
from offline.read_table import check_names, recbole_header

SUFFIXES = (".csv", ".parquet", ".jsonl", ".inter")
_MAX_LINE_BYTES = 1 << 20
_PARQUET_BATCH = 8192
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """A row, or what stands where one should.

    Attributes:
        line: where it begins, from 1; of a Parquet file, the row's number.
        text: as it stands in the file.
        values: by column; None where `problem` says why.
    """

    line: int
    text: str
    values: Mapping[str, Any] | None
    problem: str = ""


def stream_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order; blank lines are none.

    Raises:
        DataError: the file cannot be read, has no header, or is not of a known suffix.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"what is in it is told by its suffix, which must be one of {', '.join(SUFFIXES)}", path)
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
            return
        with path.open("rb") as file:
            reader = {".csv": _csv, ".inter": _recbole, ".jsonl": _json_lines}[path.suffix]
            yield from reader(path, file)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error
    except pa.ArrowInvalid as error:
        raise DataError(f"not a sound Parquet file: {error}", path) from error


@dataclass(slots=True)
class _Line:
    number: int
    text: str
    problem: str


def _lines(file: IO[bytes]) -> Iterator[_Line]:
    number = 0
    while raw := file.readline(_MAX_LINE_BYTES):
        number += 1
        problem = ""
        if len(raw) == _MAX_LINE_BYTES and not raw.endswith(b"\n"):
            problem = f"longer than {_MAX_LINE_BYTES} bytes"
            while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
        if number == 1:
            raw = raw.removeprefix(_BOM)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode(errors="replace")
            problem = problem or "not UTF-8 text"
        if "\0" in text:
            problem = problem or "holds a NUL byte, as UTF-16 text does; convert it to UTF-8"
        yield _Line(number, text, problem)


def _csv(path: Path, file: IO[bytes]) -> Iterator[Row]:
    taken: list[_Line] = []

    def texts() -> Iterator[str]:
        for line in _lines(file):
            taken.append(line)
            yield "\n" if line.problem else line.text

    records = csv.reader(texts())
    header: list[str] | None = None
    while True:
        taken.clear()
        fields: list[str] = []
        problem = ""
        try:
            fields = next(records)
        except StopIteration:
            break
        except csv.Error as error:
            problem = f"not comma separated text: {error}"
        problem = next((line.problem for line in taken if line.problem), problem)
        number, text = taken[0].number, "".join(line.text for line in taken).rstrip("\r\n")
        if header is None:
            if problem:
                raise DataError(f"the header is no text that can be read: {problem}", path, number)
            check_names(path, fields)
            header = fields
        elif problem:
            yield Row(number, text, None, problem)
        elif fields:
            yield _fitted(number, text, header, fields, "commas (quote a field that holds one)")
    if header is None:
        raise DataError("the file is empty", path)


def _recbole(path: Path, file: IO[bytes]) -> Iterator[Row]:
    lines = _lines(file)
    first = next(lines, None)
    if first is None:
        raise DataError("the file is empty", path)
    if first.problem:
        raise DataError(f"the header is no text that can be read: {first.problem}", path, 1)
    header, _ = recbole_header(path, first.text.rstrip("\r\n").split("\t"))
    check_names(path, header)
    for line in lines:
        text = line.text.rstrip("\r\n")
        if line.problem:
            yield Row(line.number, text, None, line.problem)
        elif text:
            yield _fitted(line.number, text, header, text.split("\t"), "tabs")


def _fitted(number: int, text: str, header: list[str], fields: list[str], separator: str) -> Row:
    if len(fields) == len(header):
        return Row(number, text, dict(zip(header, fields, strict=True)))
    found = f"{len(fields)} fields where the header has {len(header)}; fields are separated by {separator}"
    return Row(number, text, None, found)


def _json_lines(path: Path, file: IO[bytes]) -> Iterator[Row]:
    for line in _lines(file):
        text = line.text.rstrip("\r\n")
        if line.problem:
            yield Row(line.number, text, None, line.problem)
            continue
        if not text.strip():
            continue
        try:
            values = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield Row(line.number, text, None, f"not JSON: {error}; every line must hold one object")
            continue
        if isinstance(values, dict):
            yield Row(line.number, text, values)
        else:
            yield Row(line.number, text, None, f"a JSON {type(values).__name__}; every line must hold one object")


def _parquet(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        check_names(path, file.schema_arrow.names)
        batches = file.iter_batches(_PARQUET_BATCH)
        for number, values in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1):
            yield Row(number, orjson.dumps(values, default=str).decode(), values)
