"""What rankers are trained and measured on: judged samples, and lists of candidates.

Two protocols, by what the data folder holds:

    labelled        parts train, valid and test with a `label` column (CoLLM's split of MovieLens): does this user like
                    this item? A sample's history is the user's earlier *liked* rows over the three parts in order.
    leave-one-out   every other folder: the next item is liked, items drawn from the rest are not. Held-out items stand
                    among `DRAWN` others that the user never had, drawn by a fixed seed.

Shapes: S samples, U users, n lists, K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.rankers.ranker import RankRequest
from model_store.rankers.user_keys import user_key
from offline.column_names import ColumnNames
from offline.data_problems import DataError
from offline.dataset_files import find_data_files
from offline.interactions import Dataset
from offline.leave_one_out import Histories, Split, leave_one_out
from offline.parse_columns import parse_numbers
from offline.read_table import RawTable, read_table

LABEL = "label"
PARTS = ("train", "valid", "test")
Part = Literal["train", "valid", "test"]
DRAWN = 19
_LIST_SEED = 20


@dataclass(frozen=True, eq=False)
class JudgedSamples:
    """Users, items, and whether the one liked the other.

    Attributes:
        users: index of the user in the data set; int64 [S].
        items: int32 [S].
        labels: bool [S].
        warm: whether both user and item are in the training samples; bool [S].
        starts, ends: sample s's history is liked[starts[s]:ends[s]]; int64 [S].
        liked: item indices; int32.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int32]
    labels: NDArray[np.bool_]
    warm: NDArray[np.bool_]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    liked: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.users)

    def history(self, sample: int) -> NDArray[np.int32]:
        """What the user had liked before, oldest first."""
        return self.liked[self.starts[sample] : self.ends[sample]]

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "JudgedSamples":
        """Some of them."""
        return JudgedSamples(
            self.users[rows],
            self.items[rows],
            self.labels[rows],
            self.warm[rows],
            self.starts[rows],
            self.ends[rows],
            self.liked,
        )

    def with_history(self, at_least: int) -> "JudgedSamples":
        """Those whose user had liked so many items before."""
        return self.select(self.ends - self.starts >= at_least)


@dataclass(frozen=True, eq=False)
class CandidateLists:
    """One held-out item of a user among others; the held-out one is the first of its row.

    Attributes:
        users: int64 [n].
        histories: of length n.
        candidates: int32 [n, K].
    """

    users: NDArray[np.int64]
    histories: Histories
    candidates: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, eq=False)
class RankingData:
    """A data set as rankers see it.

    Attributes:
        dataset: where it comes from.
        protocol: see the module.
        samples: by part.
        lists: by held-out part; none in the labelled protocol.
        split: the histories behind it in the leave-one-out protocol, else None.
        user_keys: what stands for each user of the data set in a ranker's files; int64 [U].
    """

    dataset: Dataset
    protocol: Literal["labelled", "leave-one-out"]
    samples: dict[Part, JudgedSamples]
    lists: dict[Part, CandidateLists]
    split: Split | None
    user_keys: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        keys = np.array([user_key(user) for user in self.dataset.user_ids], dtype=np.int64)
        object.__setattr__(self, "user_keys", keys)

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.dataset.catalog

    def sample_requests(self, samples: JudgedSamples, rows: Sequence[int] | NDArray[np.integer]) -> list[RankRequest]:
        """Samples as requests with one candidate each."""
        return [
            RankRequest(
                history=samples.history(int(row)),
                candidates=samples.items[int(row) : int(row) + 1],
                user_key=int(self.user_keys[samples.users[int(row)]]),
            )
            for row in rows
        ]

    def list_requests(self, lists: CandidateLists, rows: Sequence[int] | NDArray[np.integer]) -> list[RankRequest]:
        """Lists as requests."""
        return [
            RankRequest(
                history=lists.histories[int(row)],
                candidates=lists.candidates[int(row)],
                user_key=int(self.user_keys[lists.users[int(row)]]),
            )
            for row in rows
        ]


def ranking_data(
    dataset: Dataset, folder: Path, columns: ColumnNames, *, negatives: int = 1, seed: int = 0
) -> RankingData:
    """The samples of a data folder.

    Args:
        dataset: the folder, read.
        folder, columns: where and how it was read.
        negatives: items drawn for each liked one, in the leave-one-out protocol.
        seed: of those.

    Raises:
        DataError: a label column without the three parts, or with something in it that is no number.
        TesseraError: a user has had nearly all items, so that others cannot be drawn.
    """
    files = find_data_files(folder)
    tables = [read_table(path) for path in files.interactions]
    if any(LABEL in table.header for table in tables):
        return _labelled(dataset, tables, columns)
    return _left_out(dataset, negatives, seed)


def _labelled(dataset: Dataset, tables: Sequence[RawTable], columns: ColumnNames) -> RankingData:
    names = [table.path.name for table in tables]
    if len(tables) != len(PARTS):
        raise DataError(
            f"a {LABEL} column asks for the parts <name>.train.inter, <name>.valid.inter and <name>.test.inter, "
            f"found {', '.join(names)}",
            tables[0].path,
        )
    users, items, labels, part = _rows(dataset, tables, columns)
    trained_users = np.isin(users, users[part == 0])
    warm = trained_users & np.isin(items, items[part == 0])
    order = np.argsort(users, kind="stable")
    liked_before: NDArray[np.int64] = np.cumsum(labels[order]) - labels[order]
    first = np.searchsorted(users[order], users[order], side="left")
    starts, ends = np.empty(len(users), np.int64), np.empty(len(users), np.int64)
    starts[order], ends[order] = liked_before[first], liked_before
    liked = items[order][labels[order]]
    every = JudgedSamples(users, items, labels, warm, starts, ends, liked)
    samples = {name: every.select(part == number) for number, name in enumerate(PARTS)}
    return RankingData(dataset, "labelled", samples, {}, None)  # type: ignore[arg-type]


def _rows(
    dataset: Dataset, tables: Sequence[RawTable], columns: ColumnNames
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
    """User, item, label and part of every row whose user and item the data set knows, in the order of the files."""
    users, items, labels, parts = [], [], [], []
    for number, table in enumerate(tables):
        found = []
        for what, known in (("user", dataset.user_ids), ("item", dataset.catalog.item_ids)):
            names = table.strings(columns.require(what, table.header, table.path))
            found.append(pc.index_in(names, pa.array(known, pa.string())).fill_null(-1).to_numpy())
        if LABEL not in table.header:
            raise DataError(f"no {LABEL} column; the other parts have one", table.path)
        read = parse_numbers(table.strings(LABEL))
        if (missing := np.isnan(read.values)).any():
            raise DataError(f"{LABEL} must be a number, 0 or above 0", table.path, table.line(int(np.argmax(missing))))
        known_rows = (found[0] >= 0) & (found[1] >= 0)
        users.append(found[0][known_rows].astype(np.int64))
        items.append(found[1][known_rows].astype(np.int32))
        labels.append(read.values[known_rows] > 0)
        parts.append(np.full(int(known_rows.sum()), number))
    return np.concatenate(users), np.concatenate(items), np.concatenate(labels), np.concatenate(parts)


def _left_out(dataset: Dataset, negatives: int, seed: int) -> RankingData:
    split = leave_one_out(dataset)
    trained = np.zeros(len(dataset.catalog), np.bool_)
    trained[split.train.items] = True
    lengths = np.diff(split.train.offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.repeat(split.train.offsets[:-1], lengths)
    ends = np.arange(len(split.train.items))
    train = _with_negatives(
        dataset, users, split.train.items, starts, ends, split.train.items, trained, negatives, seed
    )
    samples: dict[Part, JudgedSamples] = {"train": train}
    lists: dict[Part, CandidateLists] = {}
    held_out: tuple[Literal["valid", "test"], ...] = ("valid", "test")
    for name in held_out:
        cases = split.evaluation_cases(name)
        offsets = cases.histories.offsets
        samples[name] = _with_negatives(
            dataset,
            cases.users,
            cases.targets,
            offsets[:-1],
            offsets[1:],
            cases.histories.items,
            trained,
            1,
            _LIST_SEED,
        )
        drawn = _drawn(dataset, cases.users, DRAWN, _LIST_SEED + len(name))
        candidates = np.concatenate([cases.targets[:, None], drawn], axis=1).astype(np.int32)
        lists[name] = CandidateLists(cases.users, cases.histories, candidates)
    return RankingData(dataset, "leave-one-out", samples, lists, split)


def _with_negatives(
    dataset: Dataset,
    users: NDArray[np.int64],
    items: NDArray[np.int32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    liked: NDArray[np.int32],
    trained: NDArray[np.bool_],
    negatives: int,
    seed: int,
) -> JudgedSamples:
    """Each liked item and behind it its negatives, with the same history."""
    each = 1 + negatives
    shown = np.concatenate([items[:, None], _drawn(dataset, users, negatives, seed)], axis=1).astype(np.int32).ravel()
    labels = np.tile(np.arange(each) == 0, len(users))
    return JudgedSamples(
        np.repeat(users, each), shown, labels, trained[shown], np.repeat(starts, each), np.repeat(ends, each), liked
    )


def _drawn(dataset: Dataset, users: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Items that each user never had, none twice; int64 [len(users), count].

    Raises:
        TesseraError: a user has had so many that too few are left.
    """
    random = np.random.default_rng((seed, len(users)))
    items = len(dataset.catalog)
    found = np.empty((len(users), count), np.int64)
    for row, user in enumerate(users.tolist()):
        had = set(dataset.history(user).tolist())
        if items - len(had) < count:
            raise TesseraError(
                f"{dataset.name}: user {dataset.user_ids[user]!r} has had {len(had)} of {items} items; "
                f"{count} others are needed"
            )
        at = 0
        while at < count:
            item = int(random.integers(items))
            if item not in had:
                found[row, at] = item
                had.add(item)
                at += 1
    return found
