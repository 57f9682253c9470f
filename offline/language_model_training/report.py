"""How a training went, for people: its curve as JSON and as a picture, in a folder of the bundle.

report/training.json    what `LanguageModelTrainer.train` returned: one record an epoch
report/training.svg     loss of each task by epoch, and validation NDCG@10
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline.tasks.task_mix import FAMILIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOSSES = "Training loss by task, nats an item or a token of text"
_SEQUENTIAL = "next item of a history"
PICTURE_STYLE: dict[Any, Any] = {
    # Text stays text: a fifth of the size, and readable in any viewer. The salt makes equal pictures equal files.
    "svg.fonttype": "none",
    "svg.hashsalt": "tessera",
    "font.size": 9,
    "axes.titlesize": 10,
    "lines.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_report(folder: Path, training: dict[str, Any]) -> None:
    """Write both files.

    Args:
        folder: made here.
        training: what `LanguageModelTrainer.train` returned.
    """
    folder.mkdir()
    (folder / "training.json").write_text(json.dumps(training, indent=1), encoding="utf-8")
    # Imported here: it takes seconds, and only this needs it.
    import matplotlib as mpl

    with mpl.rc_context(PICTURE_STYLE):
        figure = _picture(training)
        figure.savefig(folder / "training.svg", format="svg", metadata={"Date": None})


def _picture(training: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    curve = training["curve"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, quality = figure.subplots(1, 2)
    names = {"loss": _SEQUENTIAL, "loss_contrast": "contrast, weighted"} | {
        f"loss_{family}": family.replace("_", " ") for family in FAMILIES
    }
    for key, name in names.items():
        points = [(record["epoch"], record[key]) for record in curve if key in record]
        if points:
            bold = {"color": "black", "linewidth": 2.2} if key == "loss" else {}
            losses.plot(*zip(*points, strict=True), label=name, **bold)
    losses.set(title=_LOSSES, xlabel="epoch", ylim=(0, None))
    if len(losses.lines) > 1:
        losses.legend(fontsize=7, ncols=2, frameon=False)

    measured = [(record["epoch"], record["ndcg@10"]) for record in curve if "ndcg@10" in record]
    quality.plot(*zip(*measured, strict=True), marker="o", color="tab:green")
    quality.axvline(training["best_epoch"], linestyle=":", color="gray")
    quality.annotate("kept", (training["best_epoch"], 0), xytext=(3, 3), textcoords="offset points", color="gray")
    quality.set(title="Validation NDCG@10, seen items excluded", xlabel="epoch", ylim=(0, None))
    return figure
