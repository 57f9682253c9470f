"""Rows of a file that were not taken: counted, the first few kept, all of them written to a file if one is given."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from model_store.errors import TesseraError

SHOWN = 20


@dataclass(frozen=True)
class RejectedRow:
    """A row that was not taken."""

    line: int
    """Line of the file where it begins, from 1; of a Parquet file, the row's number."""
    reason: str
    unit: str = "line"
    text: str = field(default="", repr=False, compare=False)
    """What stands there; it may name users, and goes nowhere but into the file that was asked for."""

    def __str__(self) -> str:
        return f"{self.unit} {self.line}: {self.reason}"


@dataclass
class Rejections:
    """What was not taken of one file.

    Attributes:
        count: all of them.
        first: of these, no more than `SHOWN`.
    """

    count: int = 0
    first: list[RejectedRow] = field(default_factory=list)
    _file: IO[bytes] | None = None

    def add(self, row: RejectedRow) -> None:
        """Note a row."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(row)
        if self._file is not None:
            self._file.write(orjson.dumps({"line": row.line, "reason": row.reason, "text": row.text}) + b"\n")

    def add_all(self, rows: Iterable[RejectedRow]) -> None:
        """Note rows."""
        for row in rows:
            self.add(row)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints of them."""
        return {
            "rejected": self.count,
            "rejections": [{"line": row.line, "reason": row.reason} for row in self.first],
        }


@contextmanager
def rejections(file: Path | None) -> Iterator[Rejections]:
    """Collect rejections, in a file too: {line, reason, text} a line, in the order of their finding.

    Raises:
        TesseraError: the file cannot be written.
    """
    if file is None:
        yield Rejections()
        return
    try:
        opened = file.open("wb")
    except OSError as error:
        raise TesseraError(f"--rejected {file}: cannot be written: {error.strerror}") from error
    with opened:
        yield Rejections(_file=opened)
