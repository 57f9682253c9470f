"""What can be wrong with a data folder: hard problems stop the reading, soft ones are counted and told.

One bad row among a million must not cost a night's training, and a wrong delimiter must not train a model on nothing:
bad rows are dropped with a count while they are at most 1 % of their file, and stop the reading beyond.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from model_store.errors import TesseraError

BAD_ROW_LIMIT = 0.01
"""Share of a file's rows that may be bad before the file is refused."""

WarningKind = Literal[
    "wrong number of fields",
    "not a JSON object",
    "blank row",
    "empty user or item id",
    "unparsable timestamp",
    "unparsable price",
    "unparsable availability",
    "duplicate item",
    "item without title",
    "unknown item",
    "duplicate event",
    "event out of time order",
    "user with too few events to evaluate",
    "column not used",
]


class DataError(TesseraError):
    """The data cannot be used; the text says where, what is wrong and what to do about it."""

    def __init__(self, message: str, path: Path, line: int | None = None, unit: str = "line") -> None:
        where = f"{path}" if line is None else f"{path}, {unit} {line}"
        super().__init__(f"{where}: {message}")
        self.path = path
        self.line = line


@dataclass(frozen=True)
class DataWarning:
    """A problem that was worked around, so that nothing is lost unseen."""

    kind: WarningKind
    count: int
    """Rows, events, items, users or columns concerned, as `kind` says."""
    example: str
    """The first case, with its file and line where it has one."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.count:,} (first: {self.example})"


@dataclass
class BadRows:
    """Counts the bad rows of one file, and says when they are too many to go on."""

    path: Path
    unit: str = "line"
    _counts: dict[WarningKind, int] = field(default_factory=dict)
    _firsts: dict[WarningKind, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: WarningKind, count: int, line: int, what: str) -> None:
        """Counts rows of a kind, the first of them at `line`; `what` says what is wrong there, and the remedy."""
        if count:
            self._counts[kind] = self._counts.get(kind, 0) + count
            self._firsts.setdefault(kind, (line, what))

    def settle(self, total_rows: int) -> list[DataWarning]:
        """The warnings, one a kind.

        Args:
            total_rows: rows of the file, bad ones included.

        Raises:
            DataError: more than `BAD_ROW_LIMIT` of the rows are bad; names the first of the commonest kind.
        """
        bad = sum(self._counts.values())
        if bad > BAD_ROW_LIMIT * total_rows:
            worst = max(self._counts, key=lambda kind: self._counts[kind])
            line, what = self._firsts[worst]
            share = f"{bad:,} of {total_rows:,} rows are bad, more than {BAD_ROW_LIMIT:.0%}"
            raise DataError(f"{what} ({share})", self.path, line, self.unit)
        return [
            DataWarning(kind, count, f"{self.path.name}:{self._firsts[kind][0]}: {self._firsts[kind][1]}")
            for kind, count in self._counts.items()
        ]
