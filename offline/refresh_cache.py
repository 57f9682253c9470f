"""Fill the cache: decode every user's top-K codes and store them in Redis.

Users are cut into shards. A shard is decoded, written, and then entered in the ledger, so a killed refresh goes on with
`resume` where it was and redoes at most one shard. The version becomes the served one only after the last shard.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis.exceptions import RedisError

from model_store.bundle import Bundle
from model_store.cache_schema import CacheEntry, Keys
from model_store.catalog import Catalog
from model_store.decoders.protocol import Decoded, Decoder, DecodeRequest
from model_store.errors import TesseraError
from offline.interactions import Dataset
from offline.progress import progress, say

_PIPELINE_COMMANDS = 1000
_SCAN_BATCH = 5000
_SIZED_ENTRIES = 200
_LEDGER_TTL_S = 7 * 86_400
_PLAN_FIELD = "plan"


@dataclass(frozen=True, kw_only=True)
class RefreshConfig:
    """Settings of a refresh."""

    k: int = 20
    """Items kept for each user."""
    beam_width: int = 50
    shard_users: int = 512
    entry_ttl_s: int = 14 * 86_400
    history_length: int = 200
    """Newest events kept of each user when histories are imported."""
    history_ttl_s: int = 90 * 86_400

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.beam_width:
            raise TesseraError(f"refresh: k must be between 1 and the beam width {self.beam_width}, not {self.k}")


@dataclass(frozen=True)
class RefreshSummary:
    """What `tessera refresh --json` prints.

    Attributes:
        version: the version that was filled.
        users: entries written, those of a resumed refresh's earlier part included.
        k: items kept for each.
        seconds: of this command, histories and start-up of the model left out.
        users_per_second: users this command decoded, by its seconds.
        bytes_per_user: Redis' own MEMORY USAGE of an entry, key included, mean of a sample.
        skipped: users without an item that this version knows; popular items answer them.
    """

    version: str
    users: int
    k: int
    seconds: float
    users_per_second: float
    bytes_per_user: float
    skipped: int


def import_histories(redis: Any, keys: Keys, dataset: Dataset, config: RefreshConfig) -> list[str]:
    """Bring the users' histories in Redis up to those of a data folder; returns the user ids.

    What Redis alone knows is kept: items that a user's stored history has and the folder's has not stay, as the newest.
    """
    item_ids = dataset.catalog.item_ids
    with progress("histories", len(dataset.user_ids), "users") as advance:
        for start in range(0, len(dataset.user_ids), _PIPELINE_COMMANDS):
            users = range(start, min(start + _PIPELINE_COMMANDS, len(dataset.user_ids)))
            pipeline = redis.pipeline(transaction=False)
            for user in users:
                pipeline.lrange(keys.history(dataset.user_ids[user]), 0, -1)
            stored = pipeline.execute()
            for user, before in zip(users, stored, strict=True):
                imported = [item_ids[item] for item in dataset.history(user)[-config.history_length :]]
                known = set(imported)
                news = [item for item in (raw.decode() for raw in before) if item not in known]
                merged = (imported + news)[-config.history_length :]
                key = keys.history(dataset.user_ids[user])
                if merged and merged != [raw.decode() for raw in before]:
                    pipeline.delete(key)
                    pipeline.rpush(key, *merged)
                    pipeline.expire(key, config.history_ttl_s)
            pipeline.execute()
            advance(len(users))
    return list(dataset.user_ids)


def users_with_history(redis: Any, keys: Keys) -> list[str]:
    """Every user that Redis has a history of, sorted, so that a resumed refresh cuts the same shards."""
    found = redis.scan_iter(match=keys.histories(), count=_SCAN_BATCH)
    return sorted(keys.user_of_history(key.decode()) for key in found)


def stale_users(redis: Any, keys: Keys, cache_version: str, users: Sequence[str]) -> list[str]:
    """Those of `users` who had events since their entry was decoded, or have no entry of this version."""
    stale = {user.decode() for user in redis.zrange(keys.dirty, 0, -1)}
    for start in range(0, len(users), _PIPELINE_COMMANDS):
        chunk = users[start : start + _PIPELINE_COMMANDS]
        pipeline = redis.pipeline(transaction=False)
        for user in chunk:
            pipeline.exists(keys.entry(cache_version, user))
        stale.update(user for user, exists in zip(chunk, pipeline.execute(), strict=True) if not exists)
    return [user for user in users if user in stale]


def read_user_ids(path: Path) -> list[str]:
    """User ids of a file, one a line, each once.

    Raises:
        TesseraError: the file cannot be read as text, or holds none.
    """
    try:
        ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise TesseraError(f"--users {path}: {error}") from None
    found = list(dict.fromkeys(user for user in ids if user))
    if not found:
        raise TesseraError(f"--users {path}: no user id in it; expected one a line")
    return found


class CacheRefresh:
    """One refresh of one version.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        bundle: the version to fill.
        decoder: decodes it.
        config: settings.
    """

    def __init__(self, redis: Any, keys: Keys, bundle: Bundle, decoder: Decoder, config: RefreshConfig) -> None:
        self._redis, self._keys, self._bundle = redis, keys, bundle
        self._decoder, self._config = decoder, config

    def run(self, users: Sequence[str], *, resume: bool = False, partial: bool = False) -> RefreshSummary:
        """Decode and store every user's entry.

        Args:
            users: their ids.
            resume: go on behind the last run, which was stopped.
            partial: these are not all users. Such a run has a ledger of its own, so that it does not get in the way of
                an unfinished one of all; `switch` does not follow it.

        Raises:
            TesseraError: Redis fails or is full; what was written stays, and `resume` goes on behind it. Also when
                `resume` finds the ledger of another list of users or other settings.
        """
        started = time.monotonic()
        shards = [
            users[start : start + self._config.shard_users] for start in range(0, len(users), self._config.shard_users)
        ]
        try:
            ledger = self._keys.refresh_ledger(self._bundle.version, partial=partial)
            written_before = self._open_ledger(ledger, users, resume)
            written = skipped = 0
            with progress(f"refresh {self._bundle.version}", len(users), "users") as advance:
                for number, shard in enumerate(shards):
                    if number in written_before:
                        advance(len(shard), "(already done)")
                        continue
                    count = self._refresh_shard(shard)
                    written += count
                    skipped += len(shard) - count
                    self._redis.hset(ledger, str(number), count)
                    advance(len(shard))
            if partial:
                self._redis.delete(ledger)
            seconds = time.monotonic() - started
            return RefreshSummary(
                version=self._bundle.version,
                users=written + sum(written_before.values()),
                k=self._config.k,
                seconds=round(seconds, 3),
                users_per_second=round((written + skipped) / seconds, 1) if seconds else 0.0,
                bytes_per_user=self._bytes_per_entry(users),
                skipped=skipped,
            )
        except RedisError as error:
            raise TesseraError(
                f"refresh of {self._bundle.version} stopped, Redis said: {error}; what was written stays, "
                "`tessera refresh --resume` goes on behind it"
            ) from error

    def switch(self) -> None:
        """Make the version the served one: one write, which every API worker follows."""
        self._redis.set(self._keys.active, self._bundle.version)
        self._redis.delete(self._keys.refresh_ledger(self._bundle.version))

    def _open_ledger(self, ledger: str, users: Sequence[str], resume: bool) -> dict[int, int]:
        """Shards that are done, and the entries each wrote."""
        digest = hashlib.sha256("\n".join(users).encode()).hexdigest()[:16]
        plan = f"{digest} k={self._config.k} beam={self._config.beam_width} shard={self._config.shard_users}"
        stored = {key.decode(): value.decode() for key, value in self._redis.hgetall(ledger).items()}
        if resume and stored:
            if stored.pop(_PLAN_FIELD, None) != plan:
                raise TesseraError(
                    f"refresh --resume: the unfinished refresh of {self._bundle.version} was for other users or "
                    "settings; run it without --resume to start over"
                )
            return {int(number): int(count) for number, count in stored.items()}
        if resume:
            say(f"refresh --resume: nothing unfinished for {self._bundle.version}, starting from the first user")
        self._redis.delete(ledger)
        self._redis.hset(ledger, _PLAN_FIELD, plan)
        self._redis.expire(ledger, _LEDGER_TTL_S)
        return {}

    def _refresh_shard(self, shard: Sequence[str]) -> int:
        decoded_at = int(time.time())
        stored = self._histories(shard)
        known = [
            (user, _known_items(self._bundle.catalog, history)) for user, history in zip(shard, stored, strict=True)
        ]
        users = [user for user, items in known if len(items)]
        answers = self._decoder.decode(
            [
                DecodeRequest(history=items, n=self._config.k, beam_width=self._config.beam_width, excluded=items)
                for _, items in known
                if len(items)
            ]
        )
        for part, part_answers in _in_parts(users, answers):
            pipeline = self._redis.pipeline(transaction=False)
            for user, answer in zip(part, part_answers, strict=True):
                key = self._keys.entry(self._bundle.cache_version, user)
                pipeline.set(key, self._entry(answer, decoded_at).pack(), ex=self._config.entry_ttl_s)
                pipeline.zrem(self._keys.dirty, user)
            pipeline.execute()
        self._mark_those_with_news(shard, stored)
        return len(users)

    def _mark_those_with_news(self, shard: Sequence[str], before: Sequence[list[bytes]]) -> None:
        """Give back the mark of users whose history grew while they were decoded.

        The mark is taken with the write and given back after: an event in between marks the user itself.
        """
        news = [user for user, old, new in zip(shard, before, self._histories(shard), strict=True) if old != new]
        if news:
            self._redis.zadd(self._keys.dirty, dict.fromkeys(news, time.time()), nx=True)

    def _histories(self, users: Sequence[str]) -> list[list[bytes]]:
        pipeline = self._redis.pipeline(transaction=False)
        for user in users:
            pipeline.lrange(self._keys.history(user), 0, -1)
        histories: list[list[bytes]] = pipeline.execute()
        return histories

    def _entry(self, answer: list[Decoded], decoded_at: int) -> CacheEntry:
        items = [decoded.item for decoded in answer]
        return CacheEntry(
            codes_KL=self._bundle.item_codes.codes_NL[items],
            scores=np.array([decoded.score for decoded in answer], dtype=np.float16),
            decoded_at=decoded_at,
            generator=self._decoder.name,
        )

    def _bytes_per_entry(self, users: Sequence[str]) -> float:
        step = max(1, len(users) // _SIZED_ENTRIES)
        pipeline = self._redis.pipeline(transaction=False)
        for user in users[::step]:
            pipeline.memory_usage(self._keys.entry(self._bundle.cache_version, user), samples=0)
        sizes = [size for size in pipeline.execute() if size]
        return round(sum(sizes) / len(sizes), 1) if sizes else 0.0


def _known_items(catalog: Catalog, history: list[bytes]) -> NDArray[np.int32]:
    """Item indices of a stored history; items that this version does not know are left out."""
    ids = (item.decode() for item in history)
    return np.array([catalog.index_of(item) for item in ids if item in catalog], dtype=np.int32)


def _in_parts(
    users: Sequence[str], answers: Sequence[list[Decoded]]
) -> Iterator[tuple[Sequence[str], Sequence[list[Decoded]]]]:
    size = _PIPELINE_COMMANDS // 2
    for start in range(0, len(users), size):
        yield users[start : start + size], answers[start : start + size]
