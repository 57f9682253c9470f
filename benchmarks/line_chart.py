"""A chart of what a benchmark found: median lines over a logarithmic axis, each with bars from lowest to highest."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.harness import Chart

_STYLE = {
    # Text stays text, and the same figures give the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(chart: Chart, path: Path) -> None:
    """Write it as SVG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axes = figure.subplots()
        for name, points in chart.lines.items():
            xs = [x for x, _ in points]
            medians = [spread.median for _, spread in points]
            below = [spread.median - spread.low for _, spread in points]
            above = [spread.high - spread.median for _, spread in points]
            axes.errorbar(xs, medians, yerr=(below, above), marker="o", capsize=3, label=name)
        axes.set_xscale("log")
        axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y, ylim=(0, None))
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
