"""Which users a refresh is of, cut into shards: ranges of buckets of the cache.

Users who come or go between a run and its resumption change what is in a shard, and not which shards there are. The
list lies in a temporary SQLite file, so that its length is bounded by the disk and not by memory.
"""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from model_store.cache_keys import EntryLayout

_ROWS = 10_000


@dataclass(frozen=True)
class Shard:
    """Some users, and all of their buckets.

    Attributes:
        number: 0, 1, ...
        buckets: the numbers of its buckets.
        users: ids, grouped by bucket; only those that were listed.
    """

    number: int
    buckets: range
    users: list[str]


class UserPlan:
    """A list of users, each once.

    Args:
        database: where they are.
        layout: of the version that is refreshed.
    """

    def __init__(self, database: sqlite3.Connection, layout: EntryLayout) -> None:
        self._database = database
        self._layout = layout
        self.users: int = database.execute("SELECT COUNT(*) FROM users").fetchone()[0]
        """How many there are."""

    def buckets_per_shard(self, shard_users: int) -> int:
        """How many buckets hold about so many users."""
        return max(1, shard_users * self._layout.buckets // max(self.users, 1))

    def shards(self, buckets_per_shard: int) -> Iterator[Shard]:
        """The shards that have a user, in order."""
        rows = self._database.execute("SELECT bucket, id FROM users ORDER BY bucket")
        for number, group in groupby(rows, key=lambda row: row[0] // buckets_per_shard):
            first = number * buckets_per_shard
            buckets = range(first, min(first + buckets_per_shard, self._layout.buckets))
            yield Shard(number, buckets, [user for _, user in group])


@contextmanager
def user_plan(users: Iterable[str], layout: EntryLayout) -> Iterator[UserPlan]:
    """List users, each once however often it comes, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="tessera-refresh-") as folder:
        database = sqlite3.connect(Path(folder) / "users.sqlite", isolation_level=None)
        try:
            # Nothing here outlives the process, so nothing must reach the disk in order.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE users (bucket INTEGER, id TEXT, PRIMARY KEY (bucket, id)) WITHOUT ROWID")
            database.execute("BEGIN")
            unlisted = iter(users)
            while some := list(islice(unlisted, _ROWS)):
                rows = sorted((layout.bucket_of(user), user) for user in some)
                database.executemany("INSERT OR IGNORE INTO users VALUES (?, ?)", rows)
            database.execute("COMMIT")
            yield UserPlan(database, layout)
        finally:
            database.close()
