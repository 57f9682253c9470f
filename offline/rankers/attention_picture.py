"""`attention_shares` as a picture: the share of attention that soft tokens have, by layer."""

from pathlib import Path
from typing import Any

from offline.language_model_training.report import PICTURE_STYLE

_PLACES = {"answer": "at the answer", "prompt": "at all places behind a soft token"}


def draw_attention(path: Path, found: dict[str, Any], title: str) -> None:
    """Write an SVG.

    Args:
        path: of the file.
        found: what `attention_shares` gave.
        title: of the picture.
    """
    # Imported here: it takes seconds, and only this needs it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    layers = range(1, len(found["biases"]) + 1)
    with mpl.rc_context(PICTURE_STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        figure.suptitle(title)
        for axes, (place, said) in zip(figure.subplots(1, 2, sharey=True), _PLACES.items(), strict=True):
            axes.plot(layers, found["unsteered"][place], marker="o", color="gray", label="without steering")
            if any(found["biases"]):
                axes.plot(layers, found["steered"][place], marker="o", color="tab:green", label="with steering")
            axes.axhline(found["even"][place], linestyle=":", color="black", label="even attention")
            for layer, bias in zip(layers, found["biases"], strict=True):
                if bias:
                    axes.axvspan(layer - 0.5, layer + 0.5, color="tab:green" if bias > 0 else "tab:red", alpha=0.08)
            axes.set(title=f"Attention to soft tokens {said}", xlabel="layer", ylim=(0, None), xticks=list(layers))
        axes.legend(fontsize=7, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
