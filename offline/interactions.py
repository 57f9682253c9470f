"""Reads a data folder: who met which item when, and the catalogue.

    dataset = read_dataset(Path("data/shop"))

File names are in `offline.dataset_files`, formats in `offline.read_table`, column names in `offline.column_names`, the
rule for bad rows in `offline.data_problems`. Shapes: U users, E events; user u's events are rows offsets[u] to
offsets[u + 1] (CSR).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.column_names import ColumnNames
from offline.data_problems import DataError, DataWarning
from offline.dataset_files import check_and_digest, find_data_files
from offline.item_table import catalog_of_ids, read_items
from offline.parse_columns import parse_timestamps
from offline.read_table import RawTable, read_table

MIN_EVENTS_TO_EVALUATE = 3
"""One to learn from, one to validate on, one to test on."""

USUAL_COLUMNS = ColumnNames()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data folder, read and checked."""

    name: str
    catalog: Catalog
    """All items of the items file, those nobody met included; without a file, the items met, in order of appearance."""
    user_ids: tuple[str, ...]
    """Users with at least one event, in order of appearance."""
    offsets: NDArray[np.int64]
    """Shape (U + 1,)."""
    items: NDArray[np.int32]
    """Shape (E,), item indices, oldest first within a user; events of one time keep the order of the files."""
    timestamps: NDArray[np.float64]
    """Shape (E,), as in the data: Unix seconds, or positions."""
    fingerprint: str
    """sha256 over the files' names and bytes, hex."""
    warnings: tuple[DataWarning, ...]

    def history(self, user: int) -> NDArray[np.int32]:
        """Items of a user (by index), oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]


def read_dataset(folder: Path, columns: ColumnNames = USUAL_COLUMNS) -> Dataset:
    """Reads the one data set of a folder.

    Raises:
        DataError: no or several candidate files, a missing column, text that is not UTF-8, more than 1 % bad rows in a
            file, one item id with two different rows, or no event left.
    """
    files = find_data_files(folder)
    fingerprint = check_and_digest(files)
    warnings: list[DataWarning] = []
    catalog = None
    if files.items:
        items_read = read_items(read_table(files.items), columns)
        catalog = items_read.catalog
        warnings += items_read.warnings
    parts = [_read_events(read_table(path), columns, warnings) for path in files.interactions]
    unused = dict.fromkeys(name for part in parts for name in part.unused)
    if unused:
        warnings.append(DataWarning("column not used", len(unused), f"of the interactions: {', '.join(unused)}"))
    events = _Events.join(parts)
    if catalog is None:
        catalog = catalog_of_ids(events.item_names.to_pylist())
    else:
        events = _drop_unknown(events, catalog, warnings)
    events = _drop_duplicates(events, warnings)
    return _in_time_order(events, catalog, files.name, fingerprint, warnings)


@dataclass(frozen=True)
class _Part:
    """The sound rows of one interactions file."""

    table: RawTable
    rows: NDArray[np.int64]
    users: pa.ChunkedArray
    items: pa.ChunkedArray
    types: pa.ChunkedArray
    timestamps: NDArray[np.float64]
    unused: tuple[str, ...]
    """Columns nothing was read from."""


@dataclass(frozen=True)
class _Events:
    """Events of all files in file order, with ids replaced by numbers in order of appearance."""

    parts: Sequence[_Part]
    source: NDArray[np.int64]
    """Where each event was among the sound rows of the parts, end to end."""
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    types: NDArray[np.int32]
    timestamps: NDArray[np.float64]
    user_names: pa.Array
    item_names: pa.Array

    @classmethod
    def join(cls, parts: Sequence[_Part]) -> "_Events":
        users, user_names = _number([part.users for part in parts])
        items, item_names = _number([part.items for part in parts])
        types, _ = _number([part.types for part in parts])
        timestamps = np.concatenate([part.timestamps for part in parts])
        return cls(parts, np.arange(len(users)), users, items, types, timestamps, user_names, item_names)

    def select(self, chosen: NDArray[np.bool_]) -> "_Events":
        return _Events(
            self.parts,
            self.source[chosen],
            self.users[chosen],
            self.items[chosen],
            self.types[chosen],
            self.timestamps[chosen],
            self.user_names,
            self.item_names,
        )

    def where(self, event: int) -> str:
        """File and line of an event."""
        place = int(self.source[event])
        for part in self.parts:
            if place < len(part.rows):
                return f"{part.table.path.name}:{part.table.line(int(part.rows[place]))}"
            place -= len(part.rows)
        raise IndexError(event)


def _number(columns: Sequence[pa.ChunkedArray]) -> tuple[NDArray[np.int32], pa.Array]:
    """Strings as numbers by first appearance, and the distinct strings."""
    joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    encoded = joined.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.empty(0, np.int32), pa.array([], pa.string())
    return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks]), encoded.chunk(0).dictionary


def _read_events(table: RawTable, columns: ColumnNames, warnings: list[DataWarning]) -> _Part:
    """Drops the bad rows of one file, with a warning for each kind."""
    user_column, item_column, time_column = (
        columns.require(what, table.header, table.path) for what in ("user", "item", "timestamp")
    )
    type_column = columns.find("event_type", table.header, table.path)
    users, items = table.strings(user_column), table.strings(item_column)
    types = (
        table.strings(type_column)
        if type_column
        else pa.chunked_array([pa.nulls(table.num_rows, pa.string()).fill_null("")])
    )
    times = parse_timestamps(table, time_column)
    time_texts = table.columns[time_column]
    no_user, no_item = (pc.equal(pc.utf8_trim_whitespace(ids), "").to_numpy() for ids in (users, items))
    no_time = pc.equal(pc.utf8_trim_whitespace(table.strings(time_column)), "").to_numpy()
    blank = no_user & no_item & no_time
    no_id = (no_user | no_item) & ~blank
    bad_time = times.bad & ~no_id & ~blank

    if no_id.any():
        first = int(np.argmax(no_id))
        what = f"no {user_column if no_user[first] else item_column}; every event needs a user and an item"
        table.bad_rows.add("empty user or item id", int(no_id.sum()), table.line(first), what)
    if bad_time.any():
        first = int(np.argmax(bad_time))
        what = (
            f"{time_column} {str(time_texts[first].as_py())!r} is no time; give a number (Unix seconds, or a position) "
            "or an ISO 8601 date"
        )
        table.bad_rows.add("unparsable timestamp", int(bad_time.sum()), table.line(first), what)
    warnings += table.bad_rows.settle(table.total_rows)
    if blank.any():
        # A blank line holds no event, so it does not count against the file.
        example = f"{table.path.name}:{table.line(int(np.argmax(blank)))}"
        warnings.append(DataWarning("blank row", int(blank.sum()), example))
    sound = ~(no_id | bad_time | blank)
    if not sound.any():
        raise DataError("the file has no events", table.path)
    mask = pa.array(sound)
    return _Part(
        table=table,
        rows=np.flatnonzero(sound),
        users=users.filter(mask),
        items=items.filter(mask),
        types=types.filter(mask),
        timestamps=times.values[sound],
        unused=tuple(name for name in table.header if name not in (user_column, item_column, time_column, type_column)),
    )


def _drop_unknown(events: _Events, catalog: Catalog, warnings: list[DataWarning]) -> _Events:
    """Replaces item numbers by catalogue indices, dropping the events of items that have none."""
    index_of_name = pc.index_in(events.item_names, pa.array(catalog.item_ids, pa.string())).fill_null(-1).to_numpy()
    indices = index_of_name[events.items].astype(np.int32)
    known = indices >= 0
    if not known.all():
        first = int(np.argmin(known))
        name = events.item_names[int(events.items[first])].as_py()
        example = f"{events.where(first)}: item {name!r} is not in the items file"
        if not known.any():
            raise DataError(f"no event is about an item of the items file ({example})", events.parts[0].table.path)
        warnings.append(DataWarning("unknown item", int((~known).sum()), example))
    return _Events(
        events.parts,
        events.source,
        events.users,
        indices,
        events.types,
        events.timestamps,
        events.user_names,
        events.item_names,
    ).select(known)


def _drop_duplicates(events: _Events, warnings: list[DataWarning]) -> _Events:
    """Keeps the first of the events that agree in user, item, time and type."""
    keys = (events.types, events.items, events.timestamps, events.users)
    order = np.lexsort(keys)
    repeats = np.ones(max(len(order) - 1, 0), np.bool_)
    for key in keys:
        repeats &= key[order[1:]] == key[order[:-1]]
    if not repeats.any():
        return events
    duplicates = order[1:][repeats]
    keep = np.ones(len(order), np.bool_)
    keep[duplicates] = False
    warnings.append(DataWarning("duplicate event", len(duplicates), events.where(int(duplicates.min()))))
    return events.select(keep)


def _in_time_order(
    events: _Events, catalog: Catalog, name: str, fingerprint: str, warnings: list[DataWarning]
) -> Dataset:
    by_user = np.argsort(events.users, kind="stable")
    same_user = events.users[by_user[1:]] == events.users[by_user[:-1]]
    backwards = same_user & (events.timestamps[by_user[1:]] < events.timestamps[by_user[:-1]])
    if backwards.any():
        first = int(by_user[1:][backwards].min())
        example = f"{events.where(first)}: earlier than the user's event before it"
        warnings.append(DataWarning("event out of time order", int(backwards.sum()), example))
    order = np.lexsort((events.timestamps, events.users))
    # Users who lost all their events are gone; the others keep their order.
    present, counts = np.unique(events.users, return_counts=True)
    user_ids = tuple(events.user_names.take(pa.array(present)).to_pylist())
    short = counts < MIN_EVENTS_TO_EVALUATE
    if short.any():
        first = int(np.argmax(short))
        example = f"user {user_ids[first]!r} has {counts[first]}; such users only train"
        warnings.append(DataWarning("user with too few events to evaluate", int(short.sum()), example))
    return Dataset(
        name=name,
        catalog=catalog,
        user_ids=user_ids,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=events.items[order],
        timestamps=events.timestamps[order],
        fingerprint=fingerprint,
        warnings=tuple(warnings),
    )
