"""What is in Redis: every key, for the side that writes and the side that reads.

Keys carry the namespace, and the model version where they depend on it. Any of them may be missing at any time.

Entries live in hashes, `EntryLayout.buckets` of them to a version, each small enough for Redis to keep as one compact
block: half the memory of a key for each user (docs/decisions/0017-entries-in-buckets.md). A field is a user id, its
value what `cache_entries` packs.
"""

import zlib
from dataclasses import dataclass

DEFAULT_NAMESPACE = "tessera"
USERS_OF_BUCKET = 48
"""Users of a full bucket when a version is trained. Ten times as many still fit into a compact hash."""
COMPACT_USERS = 512
COMPACT_ENTRY_BYTES = 1024
"""What Redis should be told (hash-max-listpack-entries, hash-max-listpack-value) to keep buckets compact."""
DEFAULT_BUCKETS = 1024
"""Of versions whose manifest says nothing."""


@dataclass(frozen=True)
class EntryLayout:
    """Where the entries of a version are.

    Attributes:
        cache_version: the version they are named after; an extension shares those of its base.
        buckets: how many hashes they are spread over. Fixed for as long as the version lives.
    """

    cache_version: str
    buckets: int

    def bucket_of(self, user_id: str) -> int:
        """The number of a user's bucket, 0 to buckets - 1."""
        return zlib.crc32(user_id.encode()) % self.buckets


def buckets_for(users: int) -> int:
    """How many buckets a version with so many users gets: a power of two, USERS_OF_BUCKET or fewer users in each."""
    return 1 << max(-(-users // USERS_OF_BUCKET) - 1, 0).bit_length()


@dataclass(frozen=True)
class Keys:
    """Key names of one namespace."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def active(self) -> str:
        """String: the version whose entries are served."""
        return f"{self.namespace}:active"

    @property
    def caches(self) -> str:
        """Hash: every cache version that entries were written under, and its number of buckets."""
        return f"{self.namespace}:caches"

    def kept(self, cache_version: str) -> str:
        """String: expires when it is time to put off the expiry of a served version's buckets again."""
        return f"{self.namespace}:kept:{cache_version}"

    @property
    def dirty(self) -> str:
        """Sorted set: users who may need a decode because of events, scored by the time of the first of these.

        A hint where to look: whether an entry has missed events is told by its digest of the history.
        """
        return f"{self.namespace}:dirty"

    @property
    def demand(self) -> str:
        """Sorted set: users who were answered without a fresh entry, scored by how often since their last decode."""
        return f"{self.namespace}:demand"

    def served(self, minute: int) -> str:
        """Hash: answers of one minute (Unix time / 60) to users with a history; fields `fresh` and `all`."""
        return f"{self.namespace}:served:{minute}"

    @property
    def watch(self) -> str:
        """String: held, with an expiry, by the one `tessera refresh --watch` that works; the others stand by."""
        return f"{self.namespace}:watch"

    def bucket(self, layout: EntryLayout, number: int) -> str:
        """Hash: entries by user id. Expires as a whole; whoever serves the version puts that off."""
        return f"{self.namespace}:entries:{layout.cache_version}:{number}"

    def bucket_of(self, layout: EntryLayout, user_id: str) -> str:
        """The bucket that holds a user's entry."""
        return self.bucket(layout, layout.bucket_of(user_id))

    def history(self, user_id: str) -> str:
        """List: one user's item ids, oldest first, bounded."""
        return f"{self.namespace}:hist:{user_id}"

    def histories(self) -> str:
        """Glob pattern of every history key; glob characters of the namespace escaped."""
        return f"{self._escaped}:hist:*"

    def everything(self) -> str:
        """Glob pattern of every key of the namespace; glob characters of the namespace escaped."""
        return f"{self._escaped}:*"

    @property
    def restore(self) -> str:
        """String: the digest of the backup that is being restored, from before the first key until after the last."""
        return f"{self.namespace}:restore"

    @property
    def _escaped(self) -> str:
        return "".join(f"\\{c}" if c in "*?[]^\\" else c for c in self.namespace)

    def user_of_history(self, key: str) -> str:
        """The user a history key belongs to."""
        return key[len(self.namespace) + len(":hist:") :]

    def refresh_ledger(self, version: str, *, partial: bool = False) -> str:
        """Hash: the plan of a refresh, of all users or of some, and the shards it has finished, for resume."""
        return f"{self.namespace}:refresh:{version}{':partial' if partial else ''}"
