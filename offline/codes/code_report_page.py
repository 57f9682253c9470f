"""The code report as a page of its own: no scripts, nothing loaded from elsewhere, readable on light and dark."""

import html
import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_INK = "#0a0b0c"
"""Stands for the colour of the page's text; no other colour of the picture may be this one."""
_BARS, _CATEGORY, _BRAND = "#3b82c4", "#c2703d", "#3f9a72"
_PICTURE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "codes",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       background: Canvas; color: CanvasText; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid color-mix(in srgb, CanvasText 25%, transparent);
         text-align: right; vertical-align: top; }
th.text, td.text { text-align: left; }
code { font-size: .85em; white-space: nowrap; }
svg { width: 100%; height: auto; }
.relative td.text:first-child { padding-left: 2rem; }
"""

Row = list[Any]


def code_report_page(report: dict[str, Any]) -> str:
    """The HTML of a report as `offline.codes.code_report.code_report` makes it."""
    collisions, neighbours = report["collisions"], report["neighbours"]
    facts = [
        ["Items", report["items"]],
        ["Share of items that shared their raw code", _percent(collisions["share_of_items_before"])],
        ["Largest number of items of one raw code", collisions["largest_bucket_before"]],
        ["Items moved to make codes unique", collisions["items_moved"]],
        ["Share of items that share their code now", _percent(collisions["share_of_items_after"])],
        ["Variance that codes leave unexplained", _percent(report["unexplained_variance"])],
        [
            f"Share of the {neighbours['neighbours']} nearest items that stay so when quantized "
            f"(by chance {_percent(neighbours['recall_by_chance'])})",
            _percent(neighbours["recall"]),
        ],
    ]
    levels = [
        [
            level["level"],
            level["entries"],
            level["used"],
            "{} to {}".format(*level["items_per_entry"]),
            f"{level['perplexity']:.0f}",
            level["distinct_prefixes"],
            _percent(level["single_child_nodes"]),
        ]
        for level in report["levels"]
    ]
    parts = [
        "<h1>Item codes</h1>",
        f"<p>Kind <code>{html.escape(report['kind'])}</code>, made from <code>{html.escape(report['input'])}</code> "
        "vectors.</p>",
        _table(["", ""], facts, text_columns=1),
        f"<figure>{_picture(report)}</figure>",
        "<h2>Levels</h2>",
        "<p>Perplexity is the number of entries that would carry as much if all were equally frequent. "
        "Where the prefix before a level has a single child, the level decides nothing.</p>",
        _table(
            [
                "Level",
                "Entries",
                "Used",
                "Items of an entry",
                "Perplexity",
                "Distinct prefixes up to here",
                "Prefixes before it with a single child",
            ],
            levels,
            text_columns=1,
        ),
        "<h2>What a prefix tells of an item</h2>",
        "<p>The items that share a prefix vote on one that is left out. Where nobody shares it, the longest "
        "shorter prefix that somebody shares answers.</p>",
        *(_prediction_section(name, report[name]) for name in ("category", "brand")),
        "<h2>Popular items and their relatives</h2>",
        "<p>The most popular items, each followed by those that share most of its code.</p>",
        _popular_items(report["popular_items"]),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Item codes</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _prediction_section(name: str, prediction: dict[str, Any] | None) -> str:
    if prediction is None:
        return f"<h3>{name.capitalize()}</h3><p>No item has one.</p>"
    rows = [
        [
            row["length"],
            _percent(row["accuracy"]),
            _percent(row["share_with_company"]),
            _percent(row["accuracy_with_company"]),
        ]
        for row in prediction["by_prefix_length"]
    ]
    header = ["Prefix length", "Right", "Items whose prefix is shared", "Right among these"]
    return (
        f"<h3>{name.capitalize()}</h3><p>Told: {html.escape(prediction['what'])}. {prediction['classes']} classes, "
        f"{prediction['items']} items; the most frequent class alone is right for "
        f"{_percent(prediction['majority_baseline'])}.</p>{_table(header, rows)}"
    )


def _popular_items(items: list[dict[str, Any]]) -> str:
    rows = []
    for item in items:
        rows.append(_item_row(item, ""))
        rows += [_item_row(relative, f"{relative['shared_levels']} levels") for relative in item["relatives"]]
    header = "".join(f'<th class="text">{name}</th>' for name in ("Title", "Code", "Shared"))
    return f"<table><tr>{header}<th>Events</th></tr>{''.join(rows)}</table>"


def _item_row(item: dict[str, Any], shared: str) -> str:
    kind = ' class="relative"' if shared else ""
    return (
        f'<tr{kind}><td class="text">{html.escape(item["title"])}</td>'
        f'<td class="text"><code>{html.escape(item["code"])}</code></td><td class="text">{shared}</td>'
        f"<td>{item['popularity']:.0f}</td></tr>"
    )


def _table(header: list[str], rows: list[Row], text_columns: int = 0) -> str:
    def line(cells: Row, tag: str) -> str:
        marks = [' class="text"' if column < text_columns else "" for column in range(len(cells))]
        return "".join(
            f"<{tag}{mark}>{html.escape(str(cell))}</{tag}>" for mark, cell in zip(marks, cells, strict=True)
        )

    lines = [line(header, "th")] if any(header) else []
    lines += [line(row, "td") for row in rows]
    return f"<table>{''.join(f'<tr>{cells}</tr>' for cells in lines)}</table>"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _picture(report: dict[str, Any]) -> str:
    with mpl.rc_context(_PICTURE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        levels, prefixes = figure.subplots(1, 2)
        names = [level["level"] for level in report["levels"]]
        levels.bar(names, [level["used"] for level in report["levels"]], color=_BARS, alpha=0.35, label="used")
        levels.bar(
            names, [level["perplexity"] for level in report["levels"]], color=_BARS, width=0.5, label="perplexity"
        )
        levels.set(title="Entries of each level", ylim=(0, report["levels"][0]["entries"] * 1.2))
        levels.legend(frameon=False, ncols=2)
        for name, colour in (("category", _CATEGORY), ("brand", _BRAND)):
            if report[name] is not None:
                rows = report[name]["by_prefix_length"]
                accuracies = [row["accuracy"] for row in rows]
                prefixes.plot([row["length"] for row in rows], accuracies, marker="o", color=colour, label=name)
                prefixes.axhline(report[name]["majority_baseline"], color=colour, linestyle=":")
        prefixes.set(
            title="Told right by prefixes (dotted: most frequent class)", xlabel="prefix length", ylim=(0, 1.05)
        )
        prefixes.set_xticks(range(1, len(names) + 1))
        if prefixes.lines:
            prefixes.legend(frameon=False)
        text = io.StringIO()
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return _inline(text.getvalue())


def _inline(svg: str) -> str:
    """An SVG file as an element of a page: without its prologue and name spaces, in the page's own ink."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", element)
    element = element.replace("<svg", '<svg role="img" aria-label="Entries used, and what prefixes tell of items"', 1)
    return element.replace(_INK, "currentColor")
