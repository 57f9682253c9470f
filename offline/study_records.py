"""What studies of a recipe and its variants have in common: records that are kept, and a table of means over seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from offline.whole_file import whole_file


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Keep a record as JSON, whole or not at all.

    Raises:
        TesseraError: it cannot be written.
    """
    with whole_file(path) as file:
        file.write(json.dumps(record, indent=1).encode())


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def mean_cell(values: Sequence[float]) -> str:
    """The mean, with the sample standard deviation where there are several.

    >>> mean_cell([0.25]), mean_cell([0.1, 0.2])
    ('.2500', '.1500 ± .0707')
    """
    spread = f" ± {_decimals(stdev(values))}" if len(values) > 1 else ""
    return f"{_decimals(mean(values))}{spread}"


def _decimals(value: float) -> str:
    return f"{value:.4f}".lstrip("0")
