"""Decode some users' lists and write them: the step that every refresh repeats, on whatever machine.

    reading = refresh.read(users)        their histories, and what must not be shown
    lists = refresh.decode(reading)      the only part that takes the model
    refresh.write(reading, lists)        entries

An entry is written whole by one command, so nobody ever reads half of one, and doing a part twice does no harm.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.cache_entries import history_digest, pack_entries, ranked
from model_store.cache_keys import Keys
from model_store.catalog import Catalog
from model_store.decoders.protocol import Decoded, Decoder, DecodeRequest
from model_store.prefix_trie import EligibleItems
from offline.item_changes import ShownItems
from offline.refresh.config import RefreshConfig

if TYPE_CHECKING:
    from offline.reranking import Reranker

_PIPELINE_COMMANDS = 1000


@dataclass(frozen=True)
class Reading:
    """What a part of a refresh begins with.

    Attributes:
        users: all asked for.
        stored: the history of each in Redis, item ids.
        known: rows of `users` with an item that the version knows.
        histories: the items of those, as indices; int32 [H] each.
        excluded: what each of them must not be shown, the history among it; int32 [X] each.
        eligible: what anybody may be shown, None for everything.
        read_at: Unix seconds.
    """

    users: Sequence[str]
    stored: list[list[bytes]]
    known: list[int]
    histories: list[NDArray[np.int32]]
    excluded: list[NDArray[np.int32]]
    eligible: EligibleItems | None
    read_at: int


class UserRefresh:
    """Refreshes users of one version.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        bundle: the version.
        decoder: decodes it.
        config: settings.

    Raises:
        TesseraError: lists are to be ranked, and the version has no ranker or one that cannot be loaded.
    """

    def __init__(self, redis: Any, keys: Keys, bundle: Bundle, decoder: Decoder, config: RefreshConfig) -> None:
        self._redis, self._keys, self._bundle = redis, keys, bundle
        self._decoder, self._config = decoder, config
        self._reranker = None if config.candidates is None else _reranker(bundle, config)
        self.shown = ShownItems(redis, keys, bundle)

    def refresh(self, users: Sequence[str]) -> int:
        """All three steps. Returns how many entries were written; the other users know no item of this version.

        Raises:
            RedisError: Redis fails or is full; some entries may have been written.
        """
        reading = self.read(users)
        return self.write(reading, self.decode(reading))

    def read(self, users: Sequence[str]) -> Reading:
        """Read the users' histories, what was withheld from each, and which items have been hidden or are out of stock.

        Raises:
            RedisError: Redis fails.
        """
        read_at = int(time.time())
        eligible = self.shown.eligible()
        stored, withheld = self._histories_and_withheld(users, read_at)
        catalog = self._bundle.catalog
        items = [_known_items(catalog, history) for history in stored]
        known = [row for row, history in enumerate(items) if len(history)]
        histories = [items[row] for row in known]
        excluded = [
            np.concatenate([items[row], _known_items(catalog, withheld[row])]) if withheld[row] else items[row]
            for row in known
        ]
        return Reading(users, stored, known, histories, excluded, eligible, read_at)

    def decode(self, reading: Reading) -> list[list[Decoded]]:
        """Decode a list for each known user, without what must not be shown to that user or to anybody.

        Where lists are ranked, more is decoded, and what comes first in the ranker's order is left.
        """
        found = self._decoder.decode(
            [
                DecodeRequest(
                    history=items,
                    n=self._config.candidates or self._config.k,
                    beam_width=self._config.beam_width,
                    excluded=excluded,
                    eligible=reading.eligible,
                )
                for items, excluded in zip(reading.histories, reading.excluded, strict=True)
            ]
        )
        if self._reranker is None:
            return found
        users = [reading.users[row] for row in reading.known]
        return self._reranker.reorder(users, reading.histories, found, self._config.k)

    def write(self, reading: Reading, lists: Sequence[list[Decoded]]) -> int:
        """Write the lists of the known users; returns how many.

        Raises:
            RedisError: Redis fails or is full; some entries may have been written.
        """
        users = [reading.users[row] for row in reading.known]
        layout = self._bundle.entry_layout
        buckets: dict[str, dict[str, bytes]] = {}
        for user, entry in zip(users, self._packed(reading, lists), strict=True):
            buckets.setdefault(self._keys.bucket_of(layout, user), {})[user] = entry
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset(self._keys.caches, layout.cache_version, layout.buckets)
        for bucket, entries in buckets.items():
            pipeline.hset(bucket, mapping=entries)
            pipeline.expire(bucket, self._config.entry_ttl_s)
        pipeline.execute()
        return len(users)

    def clear_marks(self, reading: Reading) -> None:
        """Take the marks of users whose history is still what was decoded.

        Also of those who know no item of the version: until an event comes, another decode would find no more.

        Raises:
            RedisError: Redis fails.
        """
        now = self._histories(reading.users)
        users = [user for user, old, new in zip(reading.users, reading.stored, now, strict=True) if old == new]
        if users:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zrem(self._keys.dirty, *users)
            pipeline.zrem(self._keys.demand, *users)
            pipeline.execute()

    def forget_departed(self, buckets: Iterable[int], staying: Iterable[str]) -> int:
        """Delete the entries of users whose history has expired, so that the cache is bounded by who is about.

        Args:
            buckets: the numbers of those to look through.
            staying: users known to be about.

        Raises:
            RedisError: Redis fails.
        """
        layout, known = self._bundle.entry_layout, set(staying)
        names = [self._keys.bucket(layout, number) for number in buckets]
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hkeys(name)
        cached = [
            (name, user)
            for name, ids in zip(names, pipeline.execute(), strict=True)
            for user in (raw.decode() for raw in ids)
            if user not in known
        ]
        for _, user in cached:
            pipeline.exists(self._keys.history(user))
        departed = [one for one, exists in zip(cached, pipeline.execute(), strict=True) if not exists]
        for name, user in departed:
            pipeline.hdel(name, user)
        pipeline.execute()
        return len(departed)

    def _histories_and_withheld(self, users: Sequence[str], now: int) -> tuple[list[list[bytes]], list[list[bytes]]]:
        histories: list[list[bytes]] = []
        withheld: list[list[bytes]] = []
        for start in range(0, len(users), _PIPELINE_COMMANDS // 2):
            pipeline = self._redis.pipeline(transaction=False)
            for user in users[start : start + _PIPELINE_COMMANDS // 2]:
                pipeline.lrange(self._keys.history(user), 0, -1)
                pipeline.zrangebyscore(self._keys.withheld(user), "-inf", now)
            found = pipeline.execute()
            histories += found[::2]
            withheld += found[1::2]
        return histories, withheld

    def _histories(self, users: Sequence[str]) -> list[list[bytes]]:
        histories: list[list[bytes]] = []
        for start in range(0, len(users), _PIPELINE_COMMANDS):
            pipeline = self._redis.pipeline(transaction=False)
            for user in users[start : start + _PIPELINE_COMMANDS]:
                pipeline.lrange(self._keys.history(user), 0, -1)
            histories += pipeline.execute()
        return histories

    def _packed(self, reading: Reading, lists: Sequence[list[Decoded]]) -> list[bytes]:
        """The entries' bytes, those of equal length in one go."""
        packed = [b""] * len(lists)
        rows_of: dict[int, list[int]] = {}
        for row, decoded in enumerate(lists):
            rows_of.setdefault(len(decoded), []).append(row)
        codes_NL = self._bundle.item_codes.codes_NL
        generator = self._decoder.name if self._reranker is None else ranked(self._decoder.name)
        digests = np.array([history_digest(reading.stored[row]) for row in reading.known], dtype=np.uint32)
        for rows in rows_of.values():
            items_UK = np.array([[one.item for one in lists[row]] for row in rows], dtype=np.int64)
            scores_UK = np.array([[one.score for one in lists[row]] for row in rows], dtype=np.float16)
            entries = pack_entries(codes_NL[items_UK], scores_UK, digests[rows], reading.read_at, generator)
            for row, entry in zip(rows, entries, strict=True):
                packed[row] = entry
        return packed


def _reranker(bundle: Bundle, config: RefreshConfig) -> "Reranker":
    # Imported here: Ray's workers say how many threads torch may have before it is there.
    from offline.reranking import Reranker

    return Reranker.of_version(bundle, config.rank_weight)


def _known_items(catalog: Catalog, history: list[bytes]) -> NDArray[np.int32]:
    """Item indices of stored ids; items that this version does not know are left out."""
    ids = (item.decode() for item in history)
    return np.array([catalog.index_of(item) for item in ids if item in catalog], dtype=np.int32)
