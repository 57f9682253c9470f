"""What long work shows: a progress bar on a terminal, plain log lines elsewhere. Everything goes to standard error."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

PROGRESS_FD_VARIABLE = "TESSERA_PROGRESS_FD"
"""Set by a process that started this one and wants to know: a pipe that gets JSON lines {done, total, per_second}."""

_LINE_EVERY_S = 10.0
_TELL_EVERY_S = 0.25


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
    if (pipe := os.environ.get(PROGRESS_FD_VARIABLE)) is not None:
        told = _Told(int(pipe), total)
        yield told
        told.tell()
    elif sys.stderr.isatty():
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


@dataclass
class _Told:
    pipe: int
    total: int
    done: int = 0

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.tell()

    def __call__(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if time.monotonic() - self.last >= _TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        self.last = time.monotonic()
        rate = self.done / max(self.last - self.started, 1e-6)
        line = json.dumps({"done": self.done, "total": self.total, "per_second": rate})
        # Whoever wanted to know may be gone; the work goes on.
        with suppress(OSError):
            os.write(self.pipe, line.encode() + b"\n")
