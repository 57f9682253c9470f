"""What long work shows: a progress bar on a terminal, plain log lines elsewhere. Everything goes to standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINE_EVERY_S = 10.0


class Advance(Protocol):
    """Tells the reporter that work was done."""

    def __call__(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more units; `note` is shown beside the bar."""


def say(message: str) -> None:
    """Write one line to standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Report on `total` units of work called `what`."""
    if sys.stderr.isatty():
        with _bar(what, total, unit) as advance:
            yield advance
    else:
        lines = _Lines(what, total, unit)
        yield lines
        lines.finish()


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        _Speed(unit),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(amount: int = 1, note: str = "") -> None:
            if note:
                bar.update(task, advance=amount, note=note)
            else:
                bar.advance(task, amount)

        yield advance


def _speed(rate: float, unit: str) -> str:
    return f"{rate:.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """How fast it goes, as soon as that is known."""
        return Text(_speed(task.speed, self._unit) if task.speed else "")


@dataclass
class _Lines:
    what: str
    total: int
    unit: str
    done: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        self.started = self.last = time.monotonic()

    def __call__(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last >= _LINE_EVERY_S:
            self.last = now
            rate = self.done / (now - self.started)
            left = (self.total - self.done) / rate if rate else 0
            speed = _speed(rate, self.unit)
            say(f"{self.what}: {self.done}/{self.total} {self.unit}, {speed}, {left:.0f} s left {self.note}".rstrip())

    def finish(self) -> None:
        took = time.monotonic() - self.started
        say(f"{self.what}: {self.done} {self.unit} in {took:.1f} s {self.note}".rstrip())
