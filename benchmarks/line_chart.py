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
        figure = Figure(figsize=(4.5 * len(chart.panels), 3.6), layout="constrained")
        for axes, (title, lines) in zip(
            figure.subplots(1, len(chart.panels), squeeze=False).flat, chart.panels.items(), strict=True
        ):
            for name, points in lines.items():
                xs = [x for x, _ in points]
                medians = [spread.median for _, spread in points]
                below = [spread.median - spread.low for _, spread in points]
                above = [spread.high - spread.median for _, spread in points]
                axes.errorbar(xs, medians, yerr=(below, above), marker="o", capsize=3, label=name)
            axes.set_xscale("log")
            # From zero, so that what looks flat is.
            axes.set(title=title, xlabel=chart.x, ylabel=chart.y, ylim=(0, None))
            axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
