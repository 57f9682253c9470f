"""Two versions' cached lists side by side, user by user: how far the one would change what people see.

Codes of different versions have nothing to do with one another, so lists are compared as items: by id, through the
catalogue of each version. An item that a version's catalogue does not have is like no other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.cache_entries import EntryTable
from model_store.cache_keys import EntryLayout, Keys
from model_store.errors import TesseraError
from offline.refresh.cache_stats import users_of_buckets
from offline.refresh.entry_scan import scan_entries
from offline.refresh.histories import users_with_history

TOP = 10
_HISTORIES = 10_000
"""Users with a history who are looked up for the coverage."""


@dataclass(frozen=True)
class Comparison:
    """What `tessera models compare --json` prints. Pairs are of the first version and of the second.

    Attributes:
        versions: names.
        users: with an entry.
        coverage: share of the users with a history who have an entry, of up to 10,000; None where nobody has a history.
        only_in: users with an entry in this one alone; reckoned from the sample where not all were looked at.
        sampled: whether some of the users were looked at.
        compared: users whose entries in both can be read; what follows are means over them.
        overlap_at_10: share of the first ten items that both lists have.
        same_first_item: share of the users with the same item in the first place.
        rank_correlation: Spearman's, over the items that both lists have; None where no user has two.
        rank_correlation_users: users with two such items or more.
    """

    versions: tuple[str, str]
    users: tuple[int, int]
    coverage: tuple[float, float] | None
    only_in: tuple[int, int]
    sampled: bool
    compared: int
    overlap_at_10: float | None
    same_first_item: float | None
    rank_correlation: float | None
    rank_correlation_users: int


def compare(redis: Any, keys: Keys, first: Bundle, second: Bundle, *, users: int | None = None) -> Comparison:
    """Compare what is cached of two versions.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        first, second: the versions.
        users: about how many of the first version's users to look at; None for all.

    Raises:
        TesseraError: both answer from the same entries, or one has none.
        RedisError: Redis fails.
    """
    if first.cache_version == second.cache_version:
        raise TesseraError(
            f"{first.version} and {second.version} answer from the same entries, those of {first.cache_version}: "
            "there is nothing to compare"
        )
    totals = _users(redis, keys, first), _users(redis, keys, second)
    buckets = _buckets(first.entry_layout, totals[0], users)
    numbers = _shared_numbers(first, second)
    sums = _Sums()
    for part in scan_entries(redis, keys, first.entry_layout, buckets):
        sums.looked_at += len(part.users)
        values = _entries_of(redis, keys, second.entry_layout, part.users)
        both = np.array([value is not None for value in values], dtype=bool)
        sums.in_both += int(both.sum())
        others = EntryTable.unpack([value or b"" for value in values])
        rows = np.flatnonzero(part.entries.readable & others.readable)
        if len(rows):
            sums.add(
                numbers[0][_items(first, part.entries, rows)],
                numbers[1][_items(second, others, rows)],
            )
    in_both = round(totals[0] * sums.in_both / max(sums.looked_at, 1))
    return Comparison(
        versions=(first.version, second.version),
        users=totals,
        coverage=_coverage(redis, keys, first.entry_layout, second.entry_layout),
        only_in=(max(totals[0] - in_both, 0), max(totals[1] - in_both, 0)),
        sampled=buckets is not None,
        compared=sums.compared,
        overlap_at_10=_mean(sums.overlap, sums.compared),
        same_first_item=_mean(sums.same_first, sums.compared),
        rank_correlation=_mean(sums.correlation, sums.correlated),
        rank_correlation_users=sums.correlated,
    )


def positions_in(items_UK: NDArray[np.int64], others_UM: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each item stands in the other list of its user, -1 where it does not; int64 [U, K].

    Args:
        items_UK, others_UM: numbers of items, each once in a list; negative for none.
    """
    if others_UM.size == 0:
        return np.full(items_UK.shape, -1, dtype=np.int64)
    users_U1 = np.arange(len(items_UK))[:, None]
    span = 1 + max(items_UK.max(initial=0), others_UM.max(initial=0))
    wanted = users_U1 * span + items_UK
    there = np.where(others_UM >= 0, users_U1 * span + others_UM, -1).ravel()
    order = np.argsort(there)
    at = order[np.minimum(np.searchsorted(there, wanted, sorter=order), there.size - 1)]
    return np.where((items_UK >= 0) & (there[at] == wanted), at % others_UM.shape[1], -1)


def rank_correlations(positions_UK: NDArray[np.int64]) -> NDArray[np.float64]:
    """Spearman's rank correlation of two lists over the items that both have; NaN for fewer than two; float64 [U].

    1 - 6 sum(d^2) / (n (n^2 - 1)), where d is the difference of an item's ranks among the n common ones
    (C. Spearman, "The Proof and Measurement of Association between Two Things", 1904). A list has no ties.

    Args:
        positions_UK: of each item of the one list in the other, -1 where it is not there.
    """
    common_UK = positions_UK >= 0
    count_U = common_UK.sum(axis=1).astype(np.float64)
    here_UK = np.cumsum(common_UK, axis=1) - 1
    last = positions_UK.max(initial=0) + 1
    there_UK = np.argsort(np.argsort(np.where(common_UK, positions_UK, last), axis=1, kind="stable"), axis=1)
    squares_U = np.where(common_UK, (here_UK - there_UK) ** 2, 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations: NDArray[np.float64] = 1 - 6 * squares_U / (count_U * (count_U**2 - 1))
    return np.where(count_U > 1, correlations, np.nan)


@dataclass
class _Sums:
    """Over the users looked at so far."""

    looked_at: int = 0
    in_both: int = 0
    compared: int = 0
    overlap: float = 0.0
    same_first: float = 0.0
    correlation: float = 0.0
    correlated: int = 0

    def add(self, first_UK: NDArray[np.int64], second_UM: NDArray[np.int64]) -> None:
        positions_UK = positions_in(first_UK, second_UM)
        top_UT = positions_UK[:, :TOP]
        shared_U = ((top_UT >= 0) & (top_UT < TOP)).sum(axis=1)
        longer_U = np.maximum((first_UK[:, :TOP] != _NONE).sum(axis=1), (second_UM[:, :TOP] != _NONE).sum(axis=1))
        correlations_U = rank_correlations(positions_UK)
        self.compared += len(first_UK)
        self.overlap += float((shared_U / np.maximum(longer_U, 1)).sum())
        self.same_first += int((positions_UK[:, 0] == 0).sum()) if positions_UK.shape[1] else 0
        self.correlation += float(np.nansum(correlations_U))
        self.correlated += int(np.count_nonzero(~np.isnan(correlations_U)))


_UNKNOWN, _NONE = -1, -2
"""In place of an item's number: of an item that the catalogue does not have, and behind the end of a list."""


def _items(bundle: Bundle, entries: EntryTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the entries' items in the version's catalogue."""
    codes_UKL = entries.codes_UKL[rows]
    users, most, levels = codes_UKL.shape
    items_UK = bundle.item_codes.items_of(codes_UKL.reshape(users * most, levels)).reshape(users, most)
    return np.where(np.arange(most) < entries.counts[rows, None], items_UK, _NONE)


def _shared_numbers(first: Bundle, second: Bundle) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each index of either catalogue, the same for the same item id; _UNKNOWN and _NONE stay."""
    known = first.catalog
    numbers = [
        known.index_of(item) if item in known else len(known) + index
        for index, item in enumerate(second.catalog.item_ids)
    ]
    # Negative indices count from the end: the last is _UNKNOWN, the one before is _NONE.
    ends = [_NONE, _UNKNOWN]
    return np.array([*range(len(known)), *ends]), np.array([*numbers, *ends])


def _users(redis: Any, keys: Keys, bundle: Bundle) -> int:
    users = int(users_of_buckets(redis, keys, bundle.entry_layout).sum())
    if not users:
        raise TesseraError(
            f"nothing is cached of {bundle.version}; "
            f"`tessera refresh --version {bundle.version} --shadow` fills its cache without serving it"
        )
    return users


def _buckets(layout: EntryLayout, users: int, wanted: int | None) -> Iterator[int] | None:
    """Numbers of evenly spread buckets with about as many users as wanted; None for all of them."""
    if wanted is None or wanted >= users:
        return None
    count = max(-(-wanted * layout.buckets // users), 1)
    return iter(range(0, layout.buckets, max(layout.buckets // count, 1)))


def _entries_of(redis: Any, keys: Keys, layout: EntryLayout, users: list[str]) -> list[bytes | None]:
    pipeline = redis.pipeline(transaction=False)
    for user in users:
        pipeline.hget(keys.bucket_of(layout, user), user)
    values: list[bytes | None] = pipeline.execute()
    return values


def _coverage(redis: Any, keys: Keys, first: EntryLayout, second: EntryLayout) -> tuple[float, float] | None:
    """Of the users with a history that Redis lists first, which is in no order."""
    users = list(set(islice(users_with_history(redis, keys), _HISTORIES)))
    if not users:
        return None
    pipeline = redis.pipeline(transaction=False)
    for user in users:
        pipeline.hexists(keys.bucket_of(first, user), user)
        pipeline.hexists(keys.bucket_of(second, user), user)
    exist = pipeline.execute()
    return round(sum(exist[::2]) / len(users), 4), round(sum(exist[1::2]) / len(users), 4)


def _mean(total: float, count: int) -> float | None:
    return round(total / count, 4) if count else None
