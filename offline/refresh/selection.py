"""Who is worth a refresh, most worth first.

    select_marked      users with news or in demand: a look at two sets and these users' entries
    select_everyone    those, and whoever's entry is old or short: a pass over the cache, on request over histories

What a user is worth is in `priority`.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.cache_entries import EntryTable, history_digest
from model_store.cache_keys import EntryLayout, Keys
from offline.item_changes import ShownItems
from offline.refresh.entry_scan import scan_entries
from offline.refresh.histories import users_with_history
from offline.refresh.priority import REASONS, Priorities, PriorityRule, Worth

Part = TypeVar("Part")

_PIPELINE_COMMANDS = 1000
_TRIMMED_AT_LEAST = 10_000


@dataclass(frozen=True)
class Selection:
    """Users worth a refresh, most worth first.

    Attributes:
        users: ids.
        worth: theirs, in the same order.
        found: how many users there were to choose from, those left out for lack of room included.
    """

    users: list[str]
    worth: Worth
    found: int

    @classmethod
    def nobody(cls) -> "Selection":
        """An empty one."""
        return _Best(None).selection()

    def count_reasons(self, rows: Sequence[int] | slice = slice(None)) -> dict[str, int]:
        """How many users, of those in these rows, there are of each reason; reasons without a user are left out."""
        counts = np.bincount(self.worth.reasons[rows], minlength=len(REASONS))
        return {name: int(count) for name, count in zip(REASONS, counts, strict=True) if count}

    def without(self, users: Collection[str]) -> "Selection":
        """All but these users."""
        staying = [row for row, user in enumerate(self.users) if user not in users]
        gone = len(self.users) - len(staying)
        worth = Worth(self.worth.priorities[staying], self.worth.reasons[staying])
        return Selection([self.users[row] for row in staying], worth, self.found - gone)

    def merged(self, newer: "Selection") -> "Selection":
        """The users of both, each once, as `newer` has them where both do."""
        older, best = self.without(set(newer.users)), _Best(None)
        best.add(older.users, older.worth)
        best.add(newer.users, newer.worth)
        left_out = older.found - len(older.users) + newer.found - len(newer.users)
        return best.selection(left_out)


def select_marked(
    redis: Any, keys: Keys, bundle: Bundle, rule: PriorityRule, *, most: int, shown: ShownItems | None = None
) -> Selection:
    """Users with news or in demand.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        bundle: the version whose entries are weighed.
        rule: when an entry is out of date.
        most: of each of the two sets so many are looked at: those with the oldest news, those most in demand.
        shown: the version's; where it is kept, only what has changed is read.

    Raises:
        RedisError: Redis fails.
    """
    marks = _Marks.read(redis, keys, most)
    best, priorities = _Best(None), _priorities(redis, keys, bundle, rule, shown)
    _add_marked(best, redis, keys, bundle.entry_layout, priorities, marks)
    return best.selection(marks.left_out)


def select_everyone(
    redis: Any,
    keys: Keys,
    bundle: Bundle,
    rule: PriorityRule,
    *,
    most: int | None = None,
    histories: bool = True,
    shown: ShownItems | None = None,
    every_part: Callable[[], None] = lambda: None,
) -> Selection:
    """Everyone worth a refresh.

    Memory: the cache is read in parts of a few thousand entries; of users with news or in demand, and of those that are
    selected, about 100 bytes each.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        bundle: the version whose entries are weighed.
        rule: when an entry is out of date.
        most: only so many, the best; None for all.
        histories: whether to look for users with a history and no entry too, which takes longer than the cache.
        shown: as for `select_marked`.
        every_part: called after each part of the cache.

    Raises:
        RedisError: Redis fails.
    """
    marks = _Marks.read(redis, keys, None)
    best, priorities, layout = _Best(most), _priorities(redis, keys, bundle, rule, shown), bundle.entry_layout
    for part in scan_entries(redis, keys, layout):
        marked, demand = marks.take(part.users)
        news = _with_news(redis, keys, part.users, part.entries, marked)
        worth = priorities.weigh(part.entries, news, demand, time.time())
        best.add(part.users, worth)
        _take_needless_marks(redis, keys, part.users, marked, worth)
        every_part()
    if histories:
        for some in _in_parts(_without_entry(redis, keys, layout, users_with_history(redis, keys))):
            _, demand = marks.take(some)
            best.add(some, priorities.weigh(_no_entries(len(some)), np.zeros(len(some), bool), demand, time.time()))
    # Whoever is still marked was not met: no entry, or one that was written while others were read.
    _add_marked(best, redis, keys, layout, priorities, marks)
    return best.selection()


def _priorities(redis: Any, keys: Keys, bundle: Bundle, rule: PriorityRule, shown: ShownItems | None) -> Priorities:
    return Priorities(bundle, rule, (shown or ShownItems(redis, keys, bundle)).mask())


@dataclass(frozen=True)
class _Marks:
    """Users with news, and users in demand with their number of answers; `left_out` more were not read."""

    news: dict[str, float]
    demand: dict[str, float]
    left_out: int = 0

    @classmethod
    def read(cls, redis: Any, keys: Keys, most: int | None) -> "_Marks":
        last = -1 if most is None else most - 1
        pipeline = redis.pipeline(transaction=False)
        pipeline.zrange(keys.dirty, 0, last, withscores=True)
        pipeline.zrevrange(keys.demand, 0, last, withscores=True)
        pipeline.zcard(keys.dirty)
        pipeline.zcard(keys.demand)
        *sets, dirty, wanted = pipeline.execute()
        news, demand = ({user.decode(): score for user, score in found} for found in sets)
        return cls(news, demand, max(dirty - len(news), 0) + max(wanted - len(demand), 0))

    def take(self, users: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether each of these has news, and its demand; they are not given again."""
        count = len(users)
        if not self.news and not self.demand:
            return np.zeros(count, dtype=bool), np.zeros(count)
        news = np.fromiter((self.news.pop(user, None) is not None for user in users), bool, count)
        return news, np.fromiter((self.demand.pop(user, 0.0) for user in users), float, count)


@dataclass
class _Best:
    """The users most worth it of all that were added; twice `most` of them are held at a time, about."""

    most: int | None
    found: int = 0
    users: list[str] = field(default_factory=list)
    parts: list[Worth] = field(default_factory=list)

    def add(self, users: Sequence[str], worth: Worth) -> None:
        """Consider these; who has nothing to gain is left out."""
        rows = np.flatnonzero(worth.priorities > 0)
        self.found += len(rows)
        self.users += [users[row] for row in rows]
        self.parts.append(Worth(worth.priorities[rows], worth.reasons[rows]))
        if self.most is not None and len(self.users) > max(2 * self.most, _TRIMMED_AT_LEAST):
            best = self.selection()
            self.users, self.parts = best.users, [best.worth]

    def selection(self, left_out: int = 0) -> Selection:
        """The best of them in order."""
        priorities = np.concatenate([np.zeros(0, np.float32), *(part.priorities for part in self.parts)])
        reasons = np.concatenate([np.zeros(0, np.uint8), *(part.reasons for part in self.parts)])
        order = np.argsort(-priorities, kind="stable")[: self.most]
        users = [self.users[row] for row in order]
        return Selection(users, Worth(priorities[order], reasons[order]), self.found + left_out)


def _add_marked(
    best: _Best, redis: Any, keys: Keys, layout: EntryLayout, priorities: Priorities, marks: _Marks
) -> None:
    for some in _in_parts(list(marks.news.keys() | marks.demand.keys())):
        pipeline = redis.pipeline(transaction=False)
        for user in some:
            pipeline.hget(keys.bucket_of(layout, user), user)
        entries = EntryTable.unpack([packed or b"" for packed in pipeline.execute()])
        _, demand = marks.take(some)
        everyone = np.ones(len(some), dtype=bool)
        worth = priorities.weigh(entries, _with_news(redis, keys, some, entries, everyone), demand, time.time())
        best.add(some, worth)
        _take_needless_marks(redis, keys, some, everyone, worth)


def _with_news(
    redis: Any, keys: Keys, users: Sequence[str], entries: EntryTable, marked: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Who of the marked has an entry that was decoded from another history; bool [U]."""
    news, rows = np.zeros(len(users), dtype=bool), np.flatnonzero(marked & entries.readable)
    for some in _in_parts(rows.tolist()):
        pipeline = redis.pipeline(transaction=False)
        for row in some:
            pipeline.lrange(keys.history(users[row]), 0, -1)
        digests = np.array([history_digest(history) for history in pipeline.execute()])
        news[some] = digests != entries.history_digests[some]
    return news


def _take_needless_marks(redis: Any, keys: Keys, users: Sequence[str], marked: NDArray[np.bool_], worth: Worth) -> None:
    """Take the marks of users whom somebody has refreshed since."""
    needless = [users[row] for row in np.flatnonzero(marked & (worth.priorities == 0))]
    if needless:
        redis.zrem(keys.dirty, *needless)


def _without_entry(redis: Any, keys: Keys, layout: EntryLayout, users: Iterable[str]) -> Iterator[str]:
    for some in _in_parts(users):
        pipeline = redis.pipeline(transaction=False)
        for user in some:
            pipeline.hexists(keys.bucket_of(layout, user), user)
        yield from (user for user, exists in zip(some, pipeline.execute(), strict=True) if not exists)


def _no_entries(users: int) -> EntryTable:
    return EntryTable.unpack([b""] * users)


def _in_parts(users: Iterable[Part]) -> Iterator[list[Part]]:
    unread = iter(users)
    while some := list(islice(unread, _PIPELINE_COMMANDS)):
        yield some
