"""What every benchmark shares: its command line, interleaved timing, tables, and the JSON object.

A benchmark is a module whose docstring states its claim and its floor. It ends with

    if __name__ == "__main__":
        harness.run(__file__, __doc__, measure)

where `measure(quick)` gives a `Report`. Both sides of a comparison are timed in the same run, in turns, so that
whatever else the machine does meets both. A claim that does not hold is a result and no failure: the exit code stays 0.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.line_chart import Chart

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Spread:
    """The samples of one measurement: their median, lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Spread":
        """Summarise samples, of which there must be at least one."""
        values = sorted(samples)
        return cls(statistics.median(values), values[0], values[-1])

    def times(self, factor: float) -> "Spread":
        """The same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def per_second(self, count: float = 1.0) -> "Spread":
        """The rate at which `count` things are done, where the samples are seconds."""
        return Spread(count / self.median, count / self.high, count / self.low)

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)}..{number(self.high)})"


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure with the bound it is held to. Make it with `at_most` or `at_least`."""

    claim: str
    value: float
    unit: str
    target: str
    holds: bool

    @classmethod
    def at_most(cls, claim: str, value: float, unit: str, bound: float) -> "Claim":
        """A figure that must not exceed `bound`."""
        return cls(claim, rounded(value), unit, f"<= {number(bound)}", value <= bound)

    @classmethod
    def at_least(cls, claim: str, value: float, unit: str, bound: float) -> "Claim":
        """A figure that must reach `bound`."""
        return cls(claim, rounded(value), unit, f">= {number(bound)}", value >= bound)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to print; the first column is the row's name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(slots=True)
class Report:
    """What a benchmark found."""

    tables: list[Table] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chart: "Chart | None" = None


def run(file: str, docstring: str | None, measure: Callable[[bool], Report]) -> None:
    """Run a benchmark as the command line asks, and print what it found."""
    name = Path(file).stem
    headline = (docstring or name).partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=headline)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: within 50 seconds")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the chart, where the benchmark has one, as SVG")
    asked = parser.parse_args()
    about = machine()
    begin = perf_counter()
    # Libraries that greet on stdout must not get between the reader and the object.
    with contextlib.redirect_stdout(sys.stderr):
        report = measure(asked.quick)
    if asked.plot is not None:
        _plot(report, asked.plot)
    if asked.json:
        print(json.dumps({"benchmark": name, "machine": about, "claims": [asdict(c) for c in report.claims]}))
        return
    print(f"{name}{' --quick' if asked.quick else ''}: {headline}")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print("\n".join(rendered(report)))
    print(f"\n{perf_counter() - begin:.0f} s")


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": _installed("torch"),
        # Above the number of cores before we start, others are at work and the spread tells of them.
        "load_before": round(os.getloadavg()[0], 1),
    }


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = perf_counter()
    call()
    return perf_counter() - begin


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Spread]:
    """Take one sample of each side in turn, `rounds` times; every other round backwards, so none is always first."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in reversed(sides) if turn % 2 else sides:
            samples[name].append(sides[name]())
    return {name: Spread.of(values) for name, values in samples.items()}


def progress(message: str) -> None:
    """Say on a terminal what is going on."""
    if sys.stderr.isatty():
        print(message, file=sys.stderr, flush=True)


def number(value: float) -> str:
    """Three significant digits, without an exponent.

    >>> number(0.01234), number(12.34), number(1234567.0)
    ('0.0123', '12.3', '1,234,567')
    """
    if value == 0 or not abs(value) < float("inf"):
        return f"{value:g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2
    while abs(value) < 10 ** (2 - digits) and digits < 9:
        digits += 1
    return f"{value:.{digits - (abs(value) >= 10)}f}".rstrip("0").rstrip(".")


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def rendered(report: Report) -> Iterable[str]:
    """The report as lines of text."""
    for table in report.tables:
        yield ""
        yield table.title
        yield from _aligned([table.columns, *table.rows])
    if report.notes:
        yield ""
        yield from report.notes
    rows = [(c.claim, f"{number(c.value)} {c.unit}", c.target, "holds" if c.holds else "MISSED") for c in report.claims]
    yield ""
    yield from _aligned([("claim", "measured", "target", ""), *rows])


def _plot(report: Report, path: Path) -> None:
    if report.chart is None:
        print("this benchmark has no chart: nothing is drawn", file=sys.stderr)
        return
    # Imported here: it takes a second, and only this needs it.
    from benchmarks.line_chart import draw

    draw(report.chart, path)


def _aligned(rows: Sequence[Sequence[object]]) -> Iterable[str]:
    texts = [[number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(["", first, *others]).rstrip()


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
