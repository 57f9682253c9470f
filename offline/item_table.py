"""The items file as a catalogue."""

import re
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.column_names import ColumnNames
from offline.data_problems import DataError, DataWarning
from offline.parse_columns import parse_categories, parse_flags, parse_numbers
from offline.read_table import RawTable

_EXPORTED = ("attributes", "code")
_ITEM_CODE = re.compile(r"(<[a-z]_\d+>)*")


@dataclass(frozen=True)
class ItemsRead:
    """A catalogue and what was wrong with its file."""

    catalog: Catalog
    warnings: tuple[DataWarning, ...]


def read_items(table: RawTable, columns: ColumnNames) -> ItemsRead:
    """Makes the catalogue, in file order; columns of no special meaning become attributes under their own names.

    Raises:
        DataError: no id column, too many bad rows, or one id with two different rows.
    """
    names = {what: columns.find(what, table.header, table.path) for what in ("title", "description", "brand")}
    id_column = columns.require("item", table.header, table.path)
    item_ids = table.strings(id_column).to_pylist()
    rows, duplicates = _distinct_rows(table, item_ids)

    def texts(name: str | None) -> list[str]:
        return [text.strip() for text in table.texts(name)] if name else [""] * table.num_rows

    titles, descriptions, brands = (texts(names[what]) for what in ("title", "description", "brand"))
    categories_column = columns.find("categories", table.header, table.path)
    categories = parse_categories(table, categories_column) if categories_column else [()] * table.num_rows
    price_column = columns.find("price", table.header, table.path)
    prices = _prices(table, price_column)
    available_column = columns.find("available", table.header, table.path)
    available = _availability(table, available_column)

    special = {id_column, *names.values(), categories_column, price_column, available_column}
    exported = _exported_attributes(table, special)
    # A brand column named by the user takes the place of one that is merely called so.
    other = {
        name: texts(name)
        for name in table.header
        if name not in special and name != "brand" and not (exported and name in _EXPORTED)
    }
    if names["brand"]:
        other["brand"] = brands
    warnings = [*table.bad_rows.settle(table.total_rows), *duplicates]
    untitled = [row for row in rows if not titles[row]]
    if untitled:
        where = (
            f"{table.path.name}:{table.line(untitled[0])}"
            if names["title"]
            else f"{table.path.name} has no title column"
        )
        warnings.append(DataWarning("item without title", len(untitled), f"{where}; its id stands in"))
    catalog = Catalog(
        item_ids=tuple(item_ids[row] for row in rows),
        titles=tuple(titles[row] or item_ids[row] for row in rows),
        texts=tuple(descriptions[row] for row in rows),
        categories=tuple(categories[row] for row in rows),
        prices=prices[rows].astype(np.float32),
        attributes=tuple(
            (exported[row] if exported else {}) | {name: values[row] for name, values in other.items() if values[row]}
            for row in rows
        ),
        available=available[rows],
    )
    return ItemsRead(catalog, tuple(warnings))


def _exported_attributes(table: RawTable, special: set[str | None]) -> list[dict[str, str]] | None:
    """The attributes of a file that `tessera export items` wrote, by row; None for every other file.

    It has them together, as a JSON object, and beside them the items' codes, which mean nothing in another version.
    """
    if not set(_EXPORTED) <= set(table.header) or special & set(_EXPORTED):
        return None
    if not all(_ITEM_CODE.fullmatch(code) for code in table.texts("code")):
        return None
    try:
        found = [orjson.loads(text) if text.strip() else {} for text in table.texts("attributes")]
    except orjson.JSONDecodeError:
        return None
    fits = all(isinstance(one, dict) and all(isinstance(value, str) for value in one.values()) for one in found)
    return found if fits else None


def _distinct_rows(table: RawTable, item_ids: list[str]) -> tuple[list[int], list[DataWarning]]:
    """Rows to keep: those with an id, the first of identical ones."""
    first_row: dict[str, int] = {}
    repeats: list[int] = []
    empty: list[int] = []
    for row, item_id in enumerate(item_ids):
        if not item_id.strip():
            empty.append(row)
        elif first_row.setdefault(item_id, row) != row:
            repeats.append(row)
    if empty:
        what = "no item id; every item needs one"
        table.bad_rows.add("empty user or item id", len(empty), table.line(empty[0]), what)
    for row in repeats:
        first = first_row[item_ids[row]]
        if any(column[row] != column[first] for column in table.columns.values()):
            raise DataError(
                f"item {item_ids[row]!r} is there already, and differently, in {table.bad_rows.unit} "
                f"{table.line(first)}; keep one of them",
                table.path,
                table.line(row),
                table.bad_rows.unit,
            )
    if not repeats:
        return list(first_row.values()), []
    example = f"{table.path.name}:{table.line(repeats[0])}: item {item_ids[repeats[0]]!r} repeats an earlier row"
    return list(first_row.values()), [DataWarning("duplicate item", len(repeats), example)]


def _prices(table: RawTable, name: str | None) -> NDArray[np.float64]:
    if name is None:
        return np.full(table.num_rows, np.nan)
    strings = table.strings(name)
    numbers = parse_numbers(strings)
    values = numbers.values
    bad = np.flatnonzero(numbers.bad | (values < 0) | (values > np.finfo(np.float32).max))
    values[bad] = np.nan
    if bad.size:
        first = int(bad[0])
        what = f"price {strings[first].as_py()!r} is not a plain number such as 12.99, or empty"
        table.bad_rows.add("unparsable price", bad.size, table.line(first), what)
    return values


def _availability(table: RawTable, name: str | None) -> NDArray[np.bool_]:
    if name is None:
        return np.ones(table.num_rows, np.bool_)
    strings = table.strings(name)
    flags, is_bad = parse_flags(strings, default=True)
    bad = np.flatnonzero(is_bad)
    if bad.size:
        first = int(bad[0])
        what = f"{strings[first].as_py()!r} in column {name!r} is neither true nor false, nor empty"
        table.bad_rows.add("unparsable availability", bad.size, table.line(first), what)
    return flags


def catalog_of_ids(item_ids: list[str]) -> Catalog:
    """The catalogue of items of which nothing but the id is known: the id is the title."""
    count = len(item_ids)
    return Catalog(
        item_ids=tuple(item_ids),
        titles=tuple(item_ids),
        texts=("",) * count,
        categories=((),) * count,
        prices=np.full(count, np.nan, np.float32),
        attributes=tuple({} for _ in range(count)),
        available=np.ones(count, np.bool_),
    )
