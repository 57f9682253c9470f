"""What is in Redis: every key, for the side that writes and the side that reads.

Keys carry the namespace, and the model version where they depend on it. Any of them may be missing at any time.

Entries live in hashes, `EntryLayout.buckets` of them to a version, each small enough for Redis to keep as one compact
block: half the memory of a key for each user (docs/decisions/0017-entries-in-buckets.md). A field is a user id, its
value what `cache_entries` packs.
"""

import binascii
import zlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

DEFAULT_NAMESPACE = "tessera"
USERS_OF_BUCKET = 48
"""Users of a full bucket when a version is trained. Ten times as many still fit into a compact hash."""
COMPACT_USERS = 512
COMPACT_ENTRY_BYTES = 1024
"""What Redis should be told (hash-max-listpack-entries, hash-max-listpack-value) to keep buckets compact."""
DEFAULT_BUCKETS = 1024
"""Of versions whose manifest says nothing."""
_SLOTS = 16384
"""Of a Redis Cluster."""


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

    def withheld(self, user_id: str) -> str:
        """Sorted set: item ids not to show a user beside the history. Score 0: blocked by hand; else the Unix time from
        which it is withheld, because it was read.
        """
        return f"{self.namespace}:withheld:{user_id}"

    def event_ids(self, user_id: str) -> str:
        """Sorted set: ids of a user's events that are recorded, scored by the Unix time of that.

        In the slot of the history, so that one transaction writes both on a cluster too.
        """
        history = self.history(user_id)
        tag = _tag_of(history)
        return f"{self.namespace}:events:{{{tag}}}" + ("" if tag == history else f":{user_id}")

    def popular(self, bucket: str) -> str:
        """Sorted set: items by events within a stretch of time: `h` and the Unix hour, or `d` and the Unix day."""
        return f"{self.namespace}:popular:{bucket}"

    def answers(self, batch: str) -> str:
        """Hash: what was recommended, by the second half of the recommendation's id; `batch` is the first."""
        return f"{self.namespace}:answers:{batch}"

    def hits(self, batch: str) -> str:
        """Hash: which items of these answers have had an event."""
        return f"{self.namespace}:hits:{batch}"

    def quality(self, day: int) -> str:
        """Hash: recommended items of one day (Unix time / 86400), and those of them that got an event."""
        return f"{self.namespace}:quality:{day}"

    def refresh_ledger(self, version: str, *, partial: bool = False) -> str:
        """Hash: the plan of a refresh, of all users or of some, and the shards it has finished, for resume."""
        return f"{self.namespace}:refresh:{version}{':partial' if partial else ''}"

    @property
    def refresh_jobs(self) -> str:
        """List: ids of the refreshes asked for over HTTP, newest first, bounded."""
        return f"{self.namespace}:jobs"

    def refresh_job(self, job_id: str) -> str:
        """Hash: one of them, as `model_store.refresh_jobs` has it."""
        return f"{self.namespace}:job:{job_id}"

    @property
    def refresh_worker(self) -> str:
        """String: held, with an expiry, by the one `tessera worker` that does the refreshes; the others stand by."""
        return f"{self.namespace}:worker"

    def traffic(self, minute: int) -> str:
        """Hash: answers of one minute (Unix time / 60) by source, and by how long they took."""
        return f"{self.namespace}:traffic:{minute}"

    @property
    def items_log(self) -> str:
        """Stream: every change of an item since the service took it, the newest last; see `app.item_log`."""
        return f"{self.namespace}:items:log"

    @property
    def items(self) -> str:
        """Hash: by item id, what the changes up to `items_upto` have made of it."""
        return f"{self.namespace}:items"

    @property
    def items_upto(self) -> str:
        """String: id of the newest entry of `items_log` that `items` surely includes."""
        return f"{self.namespace}:items:upto"

    @property
    def items_compacting(self) -> str:
        """String: held, with an expiry, by the one worker that brings `items` up to date."""
        return f"{self.namespace}:items:compacting"

    @property
    def items_publishing(self) -> str:
        """String: held, with an expiry, by the one worker that publishes a version with new items."""
        return f"{self.namespace}:items:publishing"

    def item_code(self, cache_version: str, packed: int) -> str:
        """String: the item that has just been given a code (packed into one number) of a line; expires."""
        return f"{self.namespace}:items:code:{cache_version}:{packed}"

    def survey(self, cache_version: str) -> str:
        """String: what the latest look at a sample of a version's cache found, as JSON; expires."""
        return f"{self.namespace}:survey:{cache_version}"

    def survey_turn(self, cache_version: str) -> str:
        """String: expires when it is time for another look; whoever sets it takes it."""
        return f"{self.namespace}:survey:{cache_version}:turn"


def _tag_of(key: str) -> str:
    """What to put in braces so that a key lands in the slot of another."""
    tag = _hashed_part(key)
    # A brace would end the tag early; then any other text of the same slot will do.
    return _text_of_slot(binascii.crc_hqx(tag.encode(), 0) % _SLOTS) if "}" in tag else tag


def _hashed_part(key: str) -> str:
    """What a Redis Cluster goes by: the text within the first braces, the whole key where there is none."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else key


@lru_cache(maxsize=256)
def _text_of_slot(slot: int) -> str:
    return next(text for text in map(str, count()) if binascii.crc_hqx(text.encode(), 0) % _SLOTS == slot)
