"""Writes a data set as RecBole atomic files, the format `offline.interactions` reads."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.column_names import USUAL


def write_recbole(
    folder: Path,
    name: str,
    *,
    catalog: Catalog,
    user_ids: Sequence[str],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    timestamps: NDArray[np.float64],
) -> None:
    """Writes `<name>.item` and `<name>.inter`; each file appears whole or not at all.

    Args:
        folder: made when it is not there.
        name: the data set's name.
        catalog: all items; item indices below are its rows.
        user_ids: U ids.
        offsets: shape (U + 1,), as in `Dataset`.
        items: shape (E,), item indices, oldest first within a user.
        timestamps: shape (E,).

    Raises:
        ValueError: a value the format cannot hold (tabs, line breaks, underscores in a category, an empty id).
    """
    item_rows = _item_rows(catalog)
    times = [str(int(t)) if t.is_integer() else repr(t) for t in timestamps.tolist()]
    users = np.repeat(np.arange(len(user_ids)), np.diff(offsets)).tolist()
    event_rows = (
        (user_ids[user], catalog.item_ids[item], time)
        for user, item, time in zip(users, items.tolist(), times, strict=True)
    )
    if not all(text.strip() for text in (*user_ids, *catalog.item_ids)):
        raise ValueError("an id is empty")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{name}.item", item_rows)
    header = ("user_id:token", "item_id:token", "timestamp:float")
    _write(folder / f"{name}.inter", [header, *event_rows])


def _item_rows(catalog: Catalog) -> list[tuple[str, ...]]:
    extra = sorted({key for attributes in catalog.attributes for key in attributes} - {"brand"})
    taken = {known for names in USUAL.values() for known in names}
    if clash := taken.intersection(extra):
        raise ValueError(f"an attribute may not be called {', '.join(sorted(clash))}: that column has a meaning")
    header = (
        "item_id:token",
        "title:token_seq",
        "brand:token",
        "categories:token_seq",
        "price:float",
        "available:token",
        "description:token_seq",
        *(f"{key}:token" for key in extra),
    )
    rows = [header]
    for index, item_id in enumerate(catalog.item_ids):
        attributes = catalog.attributes[index]
        price = catalog.prices[index]
        rows.append(
            (
                item_id,
                catalog.titles[index],
                attributes.get("brand", ""),
                " ".join(_token(category) for category in catalog.categories[index]),
                # The shortest text that reads back as the same float32.
                "" if np.isnan(price) else str(price),
                "true" if catalog.available[index] else "false",
                catalog.texts[index],
                *(attributes.get(key, "") for key in extra),
            )
        )
    return rows


def _token(category: str) -> str:
    token = category.replace(" ", "_")
    if "_" in category or len(token.split()) != 1:
        raise ValueError(f"category {category!r} cannot be written as one token")
    return token


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    lines = []
    for row in rows:
        if any(mark in field for field in row for mark in "\t\r\n"):
            raise ValueError(f"a tab or line break in {row} for {path.name}")
        lines.append("\t".join(row) + "\n")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(lines), encoding="utf-8", newline="\n")
    os.replace(partial, path)
