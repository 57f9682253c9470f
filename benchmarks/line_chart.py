"""A chart of what a benchmark found: median lines over a logarithmic axis, each with bars from lowest to highest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

_STYLE = {
    # Text stays text, and the same figures give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines to draw, in a panel for each title: by name, their points from left to right.

    A point is where it stands, and the median, the lowest and the highest of what was measured there.
    """

    x: str
    y: str
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float, float]]]]


def draw(chart: Chart, path: Path) -> None:
    """Write it as SVG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.5 * len(chart.panels), 3.6), layout="constrained")
        for axes, (title, lines) in zip(
            figure.subplots(1, len(chart.panels), squeeze=False).flat, chart.panels.items(), strict=True
        ):
            for name, points in lines.items():
                xs, medians, lows, highs = zip(*points, strict=True)
                below = [median - low for median, low in zip(medians, lows, strict=True)]
                above = [high - median for median, high in zip(medians, highs, strict=True)]
                axes.errorbar(xs, medians, yerr=(below, above), marker="o", capsize=3, label=name)
            axes.set_xscale("log")
            # From zero, so that what looks flat is.
            axes.set(title=title, xlabel=chart.x, ylabel=chart.y, ylim=(0, None))
            axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
