"""Writes a data set as `interactions.csv` and `items.csv`, one of the formats `offline.interactions` reads."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog

_SEPARATOR = "|"
_OTHER_SEPARATORS = ";,"
"""What readers would take for one in a column without `_SEPARATOR`."""


def write_csv(
    folder: Path,
    *,
    catalog: Catalog,
    user_ids: Sequence[str],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    timestamps: NDArray[np.float64],
) -> None:
    """Writes both files; each appears whole or not at all. Of attributes, the brand is written.

    Args:
        folder: made when it is not there.
        catalog: all items; item indices below are its rows.
        user_ids: U ids.
        offsets: shape (U + 1,), as in `Dataset`.
        items: shape (E,), item indices, oldest first within a user.
        timestamps: shape (E,).

    Raises:
        ValueError: a category with one of `|;,`.
    """
    item_rows = [
        (
            item_id,
            catalog.titles[index],
            catalog.attributes[index].get("brand", ""),
            _categories(catalog.categories[index]),
            # The shortest text that reads back as the same float32.
            "" if np.isnan(catalog.prices[index]) else str(catalog.prices[index]),
            "true" if catalog.available[index] else "false",
            catalog.texts[index],
        )
        for index, item_id in enumerate(catalog.item_ids)
    ]
    users = np.repeat(np.arange(len(user_ids)), np.diff(offsets)).tolist()
    event_rows = (
        (user_ids[user], catalog.item_ids[item], f"{time:.15g}")
        for user, item, time in zip(users, items.tolist(), timestamps.tolist(), strict=True)
    )
    folder.mkdir(parents=True, exist_ok=True)
    header = ("item_id", "title", "brand", "categories", "price", "available", "description")
    _write(folder / "items.csv", header, item_rows)
    _write(folder / "interactions.csv", ("user_id", "item_id", "timestamp"), event_rows)


def _categories(names: Sequence[str]) -> str:
    for name in names:
        if any(mark in name for mark in _SEPARATOR + _OTHER_SEPARATORS):
            raise ValueError(f"category {name!r} holds what separates categories in a CSV file")
    return _SEPARATOR.join(names)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    os.replace(partial, path)
