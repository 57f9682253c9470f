"""Lists of K items for many users, written to Redis the way a refresh does it and in the ways it might."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import redis

from model_store.bundle import Bundle
from model_store.cache_entries import pack_entries
from model_store.cache_keys import Keys, buckets_for
from model_store.decoders.protocol import Decoded
from offline.refresh.config import RefreshConfig
from offline.refresh.ledger import Ledger, Plan
from offline.refresh.shard_refresh import ShardRefresh
from offline.refresh.user_plan import Shard, user_plan
from offline.refresh.user_refresh import Reading, UserRefresh
from tests.app.light_bundle import publish_light_bundle

K = 20
_ITEMS = 12_000
_DIFFERENT = 1000
"""Lists; users take them in turn."""
_SHARD_USERS = 48
"""Of a packed shard."""
_PIPELINE_USERS = 500
_KEYS = Keys()


class _Decoder:
    """What writing asks of a decoder: its name."""

    name = "torch"


class CachedLists:
    """A list for each user of a version.

    Args:
        store: folder to publish the version in.
        users: how many.
    """

    def __init__(self, store: Path, users: int) -> None:
        random = np.random.default_rng(0)
        # As long a name as that of a version that was trained.
        bundle = publish_light_bundle(store, "20260101-000000-0a1b2c", items=_ITEMS)
        manifest = bundle.manifest.model_copy(update={"cache_buckets": buckets_for(users)})
        self.bundle: Bundle = dataclasses.replace(bundle, manifest=manifest)
        self.layout = self.bundle.entry_layout
        self.users = [f"user-{number:06}" for number in range(users)]
        scores = np.sort(random.uniform(-12, -2, (_DIFFERENT, K)))[:, ::-1]
        items = [random.choice(_ITEMS, K, replace=False) for _ in range(_DIFFERENT)]
        self.lists = [
            [Decoded(item=int(item), score=float(score)) for item, score in zip(*pair, strict=True)]
            for pair in zip(items, scores, strict=True)
        ]
        codes = self.bundle.item_codes.codes_NL[np.array(items)]
        self.packed = pack_entries(codes, scores, np.zeros(_DIFFERENT), int(time.time()), _Decoder.name)
        with user_plan(self.users, self.layout) as plan:
            self.buckets_per_shard = plan.buckets_per_shard(RefreshConfig().shard_users)
            self.shards = list(plan.shards(self.buckets_per_shard))

    def packed_of(self, number: int) -> bytes:
        """The entry of a user, packed."""
        return self.packed[number % _DIFFERENT]

    def refresh(self, client: redis.Redis, history: list[bytes]) -> None:
        """All that a refresh of all users does after decoding, shard by shard.

        Args:
            client: of the server.
            history: of every user, as it is in Redis.
        """
        config = RefreshConfig()
        users = UserRefresh(client, _KEYS, self.bundle, _Decoder(), config)  # type: ignore[arg-type]
        ledger = Ledger(client, _KEYS, self.bundle.version)
        ledger.begin(Plan.of(self.bundle, config, self.buckets_per_shard))
        refresh = ShardRefresh(users, ledger, forget_departed=True)
        for shard in self.shards:
            refresh.finish(shard, self._reading(shard, history), self._lists_of(shard))
        ledger.close()

    def write(self, client: redis.Redis, history: list[bytes]) -> None:
        """The step of it that writes entries."""
        users = UserRefresh(client, _KEYS, self.bundle, _Decoder(), RefreshConfig())  # type: ignore[arg-type]
        for shard in self.shards:
            users.write(self._reading(shard, history), self._lists_of(shard))

    def put_entries(self, client: redis.Redis) -> None:
        """Of that the commands that store entries, which are packed already."""
        for buckets in self.entries_by_bucket:
            pipeline = client.pipeline(transaction=False)
            for bucket, entries in buckets:
                pipeline.hset(bucket, mapping=entries)
                pipeline.expire(bucket, RefreshConfig.entry_ttl_s)
            pipeline.execute()

    def put_histories(self, client: redis.Redis, history: list[bytes]) -> None:
        """Give every user the same history."""
        self._each(client, lambda pipeline, number, user: pipeline.rpush(_KEYS.history(user), *history))

    def one_key_a_user(self, client: redis.Redis) -> None:
        """The packed entry as a string, with an expiry."""
        prefix = f"{_KEYS.namespace}:entries:{self.bundle.version}:"
        self._each(
            client, lambda pipeline, number, user: pipeline.set(f"{prefix}{user}", self.packed_of(number), ex=1_000_000)
        )

    def packed_shards(self, client: redis.Redis) -> None:
        """The entries of 48 users, and their ids, as one string: smallest, but one user's entry cannot be written."""
        pipeline = client.pipeline(transaction=False)
        for some in _slices(len(self.users), _SHARD_USERS):
            value = b"".join(
                bytes([len(self.users[number])]) + self.users[number].encode() + self.packed_of(number)
                for number in some
            )
            pipeline.set(f"{_KEYS.namespace}:entries:{self.bundle.version}:{some.start}", value, ex=1_000_000)
        pipeline.execute()

    def json_lists(self, client: redis.Redis) -> None:
        """[{"item": id, "score": number}, ...] as a string, with an expiry."""
        ids = self.bundle.catalog.item_ids
        values = [
            json.dumps([{"item": ids[one.item], "score": round(one.score, 4)} for one in decoded])
            for decoded in self.lists
        ]
        prefix = f"{_KEYS.namespace}:lists:{self.bundle.version}:"
        self._each(
            client,
            lambda pipeline, number, user: pipeline.set(f"{prefix}{user}", values[number % _DIFFERENT], ex=1_000_000),
        )

    def sorted_sets(self, client: redis.Redis) -> None:
        """Item ids by score, with an expiry."""
        ids = self.bundle.catalog.item_ids
        values = [{ids[one.item]: round(one.score, 4) for one in decoded} for decoded in self.lists]
        prefix = f"{_KEYS.namespace}:lists:{self.bundle.version}:"

        def add(pipeline: redis.client.Pipeline, number: int, user: str) -> None:
            pipeline.zadd(f"{prefix}{user}", values[number % _DIFFERENT])
            pipeline.expire(f"{prefix}{user}", 1_000_000)

        self._each(client, add)

    @cached_property
    def entries_by_bucket(self) -> list[list[tuple[str, dict[str, bytes]]]]:
        """Shard by shard, what is in each bucket."""
        shards = []
        for shard in self.shards:
            buckets: dict[str, dict[str, bytes]] = {}
            for number, user in enumerate(shard.users):
                buckets.setdefault(_KEYS.bucket_of(self.layout, user), {})[user] = self.packed_of(number)
            shards.append(list(buckets.items()))
        return shards

    def _reading(self, shard: Shard, history: list[bytes]) -> Reading:
        rows = list(range(len(shard.users)))
        return Reading(shard.users, [history] * len(rows), rows, [], int(time.time()))

    def _lists_of(self, shard: Shard) -> list[list[Decoded]]:
        return [self.lists[row % _DIFFERENT] for row in range(len(shard.users))]

    def _each(self, client: redis.Redis, put: Callable[[redis.client.Pipeline, int, str], object]) -> None:
        for some in _slices(len(self.users), _PIPELINE_USERS):
            pipeline = client.pipeline(transaction=False)
            for number in some:
                put(pipeline, number, self.users[number])
            pipeline.execute()


def _slices(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
