"""What a Ray worker does: it opens the version once, and refreshes the shards that come.

A shard travels as a row of an Arrow table, and comes back as one with what became of it. Expected trouble comes back in
that row too: as an exception it would pass through Ray as a page of stack traces.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pyarrow as pa
from pydantic import SecretStr
from redis.exceptions import RedisError

from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import Keys
from model_store.decoders.protocol import Decoder
from model_store.errors import TesseraError
from offline.redis_connection import REDIS_FAILURES, connect
from offline.refresh.config import RefreshConfig
from offline.refresh.ledger import Ledger, ShardDone
from offline.refresh.shard_refresh import ShardRefresh
from offline.refresh.user_plan import Shard
from offline.refresh.user_refresh import UserRefresh

SHARD_SCHEMA = pa.schema(
    [("number", pa.int64()), ("first", pa.int64()), ("end", pa.int64()), ("users", pa.list_(pa.string()))]
)
_DONE_FIELDS = {"written": pa.int64(), "skipped": pa.int64(), "trouble": pa.string(), "of_redis": pa.bool_()}


@dataclass(frozen=True)
class WorkerJob:
    """All that a worker on another machine needs to know.

    Attributes:
        store: folder of versions; the same path on every machine.
        version: which is refreshed.
        redis_url: its repr shows nothing of it.
        namespace: of the keys.
        config: settings.
        partial: whether some users are refreshed, and not all.
        open_decoder: makes the decoder of a version; importable on every machine.
    """

    store: Path
    version: str
    redis_url: SecretStr
    namespace: str
    config: RefreshConfig
    partial: bool
    open_decoder: Callable[[Bundle], Decoder]


class ShardWorker:
    """Refreshes shards, two at a time: one is read or written while the other is decoded.

    Args:
        job: what all workers share.
        threads: of the decoder.
    """

    def __init__(self, job: WorkerJob, threads: int) -> None:
        # Workers share a machine: each may run anywhere on it, on as many cores as it was given.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        self._threads = threads
        self._decoding = Lock()
        self._refused: Exception | None = None
        try:
            self._refresh = _opened(job)
        except (TesseraError, *REDIS_FAILURES) as error:
            # Told with the first shard; Ray would try to make the worker again and again.
            self._refused = error

    def __call__(self, row: pa.Table) -> pa.Table:
        """Refresh the shard of a table of one row; returns the row, and what became of it."""
        try:
            done = self._done(shard_of(row))
            became = (done.written, done.skipped, "", False)
        except REDIS_FAILURES as error:
            became = (0, 0, str(error) or type(error).__name__, True)
        except TesseraError as error:
            became = (0, 0, str(error), False)
        for (name, kind), value in zip(_DONE_FIELDS.items(), became, strict=True):
            row = row.append_column(name, pa.array([value], kind))
        return row

    def _done(self, shard: Shard) -> ShardDone:
        if self._refused is not None:
            raise self._refused
        reading = self._refresh.read(shard)
        with self._decoding:
            import torch

            # OpenMP counts for each thread that calls it.
            torch.set_num_threads(self._threads)
            lists = self._refresh.decode(reading)
        return self._refresh.finish(shard, reading, lists)


def _opened(job: WorkerJob) -> ShardRefresh:
    redis, keys = connect(job.redis_url.get_secret_value()), Keys(job.namespace)
    bundle = ModelStore(job.store).open(job.version)
    users = UserRefresh(redis, keys, bundle, job.open_decoder(bundle), job.config)
    ledger = Ledger(redis, keys, bundle.version, partial=job.partial)
    return ShardRefresh(users, ledger, forget_departed=not job.partial)


def table_of(shards: list[Shard]) -> pa.Table:
    """Shards as they travel."""
    rows = [
        {"number": shard.number, "first": shard.buckets.start, "end": shard.buckets.stop, "users": shard.users}
        for shard in shards
    ]
    return pa.Table.from_pylist(rows, SHARD_SCHEMA)


def shard_of(row: pa.Table) -> Shard:
    """The shard of a table of one row."""
    (fields,) = row.select(SHARD_SCHEMA.names).to_pylist()
    return Shard(fields["number"], range(fields["first"], fields["end"]), fields["users"])


def done_of(row: pa.Table) -> ShardDone:
    """What became of the shard of a table of one row.

    Raises:
        RedisError: Redis failed or is full.
        TesseraError: the worker cannot refresh anything.
    """
    (fields,) = row.select(list(_DONE_FIELDS)).to_pylist()
    if fields["trouble"]:
        raise (RedisError if fields["of_redis"] else TesseraError)(fields["trouble"])
    return ShardDone(fields["written"], fields["skipped"])
