"""Two Ray workers refresh 1.7 times as many users a second as one, on two cores, and write the same entries.

Measured: a full refresh of a generated shop into a real Redis, by a random GPT-NeoX of the layers and width of
`scratch:small`, 20 beams, top 20, shards of 64 users: on this machine alone as `tessera refresh` does it, and on a
local Ray cluster with one worker of one core, and with two. One decoding thread for each. The rate is that of the
second half of the users, but for the last two shards of each worker: by then all workers have started, which is told
apart, and none has run out of work. The entries of all runs are compared: the same codes and scores, to the byte.
Floor: the run without Ray, which has the same reads, decodes and writes and nobody to deal them out; for two workers,
twice the rate of one.
"""

import functools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import SecretStr

from app import embedded_redis
from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from model_store.bundle import Bundle
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import Keys
from model_store.decoders.torch_decoder import TorchDecoder
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.redis_connection import connect
from offline.refresh.config import RefreshConfig
from offline.refresh.histories import import_histories
from offline.refresh.job import ShardRuns, on_this_machine, run_refresh
from offline.refresh.ledger import Ledger, Plan, ShardDone
from offline.refresh.on_ray import on_ray
from offline.refresh.ray_cluster import LOCAL, Workers, ray_workers
from offline.refresh.ray_worker import WorkerJob
from offline.refresh.shard_refresh import ShardRefresh
from offline.refresh.user_plan import Shard, user_plan
from offline.refresh.user_refresh import UserRefresh
from tests.tiny_bundle import build_tiny_bundle

_HIDDEN, _LAYERS = 128, 2
_ITEMS = 2_000
_USERS, _USERS_QUICK = 12_000, 2_500
_MAX_HISTORY = 50
_CONFIG = RefreshConfig(k=20, beam_width=20, shard_users=64)
_KEYS = Keys("benchmark")
_ROUNDS = 2
_LAST_SHARDS = 2
"""Of each worker, left out of the rate."""

_EFFICIENCY = 0.8
_OF_LOCAL = 0.9

Entries = dict[str, tuple[bytes, bytes, str]]


@dataclass(frozen=True)
class Shop:
    """What is refreshed.

    Attributes:
        bundle: the version.
        url: of the Redis that has the histories.
        users: everyone.
    """

    bundle: Bundle
    url: str
    users: list[str]


@dataclass(frozen=True)
class Timed:
    """One refresh.

    Attributes:
        rate: users a second once all workers are at it.
        first_s: until the first shard was done.
        entries: codes, scores and decoder of each user.
    """

    rate: float
    first_s: float
    entries: Entries


def measure(quick: bool) -> Report:
    """All three, in turns."""
    torch.set_num_threads(1)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="tessera-benchmark-") as folder:
        home = Path(folder)
        shop = _shop(home, _USERS_QUICK if quick else _USERS)
        try:
            begin = time.perf_counter()
            with ray_workers(LOCAL, count=2, gpus=0) as workers:
                cluster_s = time.perf_counter() - begin
                runs = _in_turns(shop, workers, 1 if quick else _ROUNDS)
        finally:
            embedded_redis.stop(home)
    _assert_same_entries(runs)
    rates = {name: Spread.of(run.rate for run in timed) for name, timed in runs.items()}
    firsts = {name: Spread.of(run.first_s for run in timed) for name, timed in runs.items()}
    report.tables.append(
        Table(
            f"{len(shop.users):,} users, {_CONFIG.beam_width} beams, top {_CONFIG.k}: median (min..max)",
            ("", "users/s", "first shard after, s"),
            [(name, rates[name], firsts[name]) for name in runs],
        )
    )
    local, one, two = (rates[name].median for name in runs)
    report.claims += [
        Claim.at_least("two workers, share of twice one worker's rate", two / (2 * one), "x", _EFFICIENCY),
        Claim.at_least("one worker, share of the rate without Ray", one / local, "x", _OF_LOCAL),
    ]
    report.notes.append(
        f"the cluster was up after {cluster_s:.1f} s; the entries of all runs are the same, to the byte"
    )
    return report


def _shop(home: Path, users: int) -> Shop:
    generate(home / "shop", users=users, items=_ITEMS, seed=0)
    dataset = read_dataset(home / "shop")
    bundle = build_tiny_bundle(
        home / "store",
        catalog=dataset.catalog,
        first_level=200,
        max_history=_MAX_HISTORY,
        layers=_LAYERS,
        hidden=_HIDDEN,
    )
    url = embedded_redis.ensure_running(home)
    import_histories(connect(url), _KEYS, dataset, _CONFIG)
    return Shop(bundle, url, list(dataset.user_ids))


def _in_turns(shop: Shop, workers: Workers, rounds: int) -> dict[str, list[Timed]]:
    one = Workers(1, workers.cpus, workers.gpus)
    sides = {
        "without Ray": lambda: _measure_local(shop),
        "Ray, one worker": lambda: _measure_ray(shop, one),
        "Ray, two workers": lambda: _measure_ray(shop, workers),
    }
    found: dict[str, list[Timed]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in reversed(sides) if turn % 2 else sides:
            harness.progress(name)
            found[name].append(sides[name]())
    return found


def _measure_local(shop: Shop) -> Timed:
    redis = connect(shop.url)
    decoder = TorchDecoder.from_bundle(shop.bundle, device="cpu")
    by_user = UserRefresh(redis, _KEYS, shop.bundle, decoder, _CONFIG)
    ledger = Ledger(redis, _KEYS, shop.bundle.version)
    return _refreshed(shop, on_this_machine(ShardRefresh(by_user, ledger, forget_departed=True)), workers=1)


def _measure_ray(shop: Shop, workers: Workers) -> Timed:
    job = WorkerJob(
        store=shop.bundle.path.parent,
        version=shop.bundle.version,
        redis_url=SecretStr(shop.url),
        namespace=_KEYS.namespace,
        config=_CONFIG,
        partial=False,
        open_decoder=functools.partial(TorchDecoder.from_bundle, device="cpu"),
    )
    shards = -(-len(shop.users) // _CONFIG.shard_users)
    return _refreshed(shop, on_ray(job, workers, shards), workers=workers.count)


def _refreshed(shop: Shop, run: ShardRuns, *, workers: int) -> Timed:
    """Refresh everyone into a cache that is empty, and look at the clock whenever a shard is done."""
    redis = connect(shop.url)
    layout = shop.bundle.entry_layout
    redis.delete(*(_KEYS.bucket(layout, number) for number in range(layout.buckets)))
    done: list[tuple[float, int]] = []

    def watched(shards: Iterator[Shard]) -> Iterator[tuple[Shard, ShardDone]]:
        for shard, result in run(shards):
            done.append((time.perf_counter(), len(shard.users)))
            yield shard, result

    with user_plan(shop.users, layout) as listed:
        plan = Plan.of(shop.bundle, _CONFIG, listed.buckets_per_shard(_CONFIG.shard_users))
        begin = time.perf_counter()
        run_refresh(shop.bundle.version, listed, watched, Ledger(redis, _KEYS, shop.bundle.version), plan)
    steady = done[len(done) // 2 : -_LAST_SHARDS * workers]
    users = sum(count for _, count in steady[1:])
    return Timed(users / (steady[-1][0] - steady[0][0]), done[0][0] - begin, _entries(redis, shop.bundle))


def _entries(redis: Any, bundle: Bundle) -> Entries:
    """When an entry was decoded is left out."""
    found: Entries = {}
    for number in range(bundle.entry_layout.buckets):
        for user, packed in redis.hgetall(_KEYS.bucket(bundle.entry_layout, number)).items():
            entry = CacheEntry.unpack(packed)
            found[user.decode()] = (entry.codes_KL.tobytes(), entry.scores.tobytes(), entry.generator)
    return found


def _assert_same_entries(runs: dict[str, list[Timed]]) -> None:
    first, *others = (run.entries for timed in runs.values() for run in timed)
    if not first or any(entries != first for entries in others):
        raise AssertionError("the runs wrote different entries")


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
