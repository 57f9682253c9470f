"""`tessera refresh` of everyone, or of the users of a file: on this machine or on a Ray cluster."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from command_line.common import open_bundle, read_data, redis_url, serve_version
from command_line.partial_refresh import kept_of
from model_store.errors import TesseraError

if TYPE_CHECKING:
    from app.settings import Settings
    from model_store.bundle import Bundle
    from model_store.decoders.protocol import Decoder
    from offline.refresh.config import RefreshConfig
    from offline.refresh.job import ShardRuns
    from offline.refresh.ray_worker import WorkerJob
    from offline.refresh.shard_refresh import ShardRefresh


@dataclass(frozen=True)
class RayOptions:
    """Where and with what workers a refresh runs on Ray."""

    address: str
    workers: int | None
    worker_cpus: int
    worker_gpus: float | None


def refresh_all(
    settings: "Settings",
    config: "RefreshConfig",
    open_decoder: "Callable[[Bundle], Decoder]",
    *,
    data: Path | None,
    columns: list[str] | None,
    version: str | None,
    users: Path | None,
    resume: bool,
    shadow: bool,
    coverage: float,
    ray: RayOptions | None,
    metrics_port: int | None,
    as_json: bool,
) -> None:
    """Refresh all users, or those of the file `users`, and print how it went.

    The version is served afterwards if it was of all, not in the shadow, and covers enough of them.
    """
    from pydantic import SecretStr

    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.histories import import_histories, users_of_file, users_with_history
    from offline.refresh.job import run_refresh
    from offline.refresh.ledger import Ledger, Plan
    from offline.refresh.metrics import FullRefreshMetrics, serve_metrics
    from offline.refresh.ray_cluster import LOCAL
    from offline.refresh.ray_worker import WorkerJob
    from offline.refresh.shard_refresh import ShardRefresh
    from offline.refresh.user_plan import user_plan
    from offline.refresh.user_refresh import UserRefresh
    from offline.reranking import ranker_record

    if ray is not None and ray.address != LOCAL and settings.redis_url is None:
        raise TesseraError(
            f"--ray {ray.address}: workers on other machines cannot reach the embedded Redis; set TESSERA_REDIS_URL"
        )
    bundle = open_bundle(settings, version)
    if config.candidates is not None:
        ranker_record(bundle)
    partial = users is not None
    keys, url = Keys(settings.namespace), redis_url(settings)
    redis = connect(url)
    chosen: Iterable[str]
    if data is not None:
        dataset = read_data(data, columns)
        with told("refresh: importing histories"):
            import_histories(redis, keys, dataset, config)
        chosen = dataset.user_ids
    else:
        chosen = users_with_history(redis, keys)
    if users is not None:
        chosen = users_of_file(users)
    metrics = FullRefreshMetrics()
    if metrics_port is not None:
        serve_metrics(metrics.registry, metrics_port)
    with told("refresh: listing users"), user_plan(chosen, bundle.entry_layout) as listed:
        if not listed.users:
            raise TesseraError("refresh: no user has a history in Redis; import some with --data DIR")
        ledger = Ledger(redis, keys, bundle.version, partial=partial)
        plan = Plan.of(bundle, config, listed.buckets_per_shard(config.shard_users))

        def shards_with(decoder: "Decoder") -> ShardRefresh:
            by_user = UserRefresh(redis, keys, bundle, decoder, config)
            return ShardRefresh(by_user, ledger, forget_departed=not partial)

        if ray is None:
            runs = _runs_here(open_decoder, bundle, shards_with)
        else:
            job = WorkerJob(
                store=settings.store.absolute(),
                version=bundle.version,
                redis_url=SecretStr(url),
                namespace=settings.namespace,
                config=config,
                partial=partial,
                open_decoder=open_decoder,
            )
            runs = _runs_on_ray(job, ray, shards=plan.shards)
        with runs as run:
            summary = run_refresh(bundle.version, listed, run, ledger, plan, resume=resume, observe=metrics.observe)
    # Some users' entries are no reason to serve another version to all of them.
    serve = not partial and not shadow and summary.coverage >= coverage
    if serve:
        serve_version(settings, bundle.version)
    if partial or serve or shadow:
        ledger.close()
    if as_json:
        typer.echo(json.dumps(vars(summary)))
    else:
        typer.echo(
            f"{summary.version}: {summary.users} users, top {kept_of(summary.k, config)}, {summary.seconds:.1f} s "
            f"({summary.users_per_second:.0f} users/s), {summary.skipped} without a known item"
        )
    if not (serve or partial or shadow):
        raise TesseraError(
            f"refresh: {summary.coverage:.1%} of the users have an entry of {bundle.version}, {coverage:.1%} were "
            "asked for, so it is not served; was it trained on this catalogue? --coverage takes a smaller share"
        )


@contextmanager
def _runs_here(
    open_decoder: "Callable[[Bundle], Decoder]",
    bundle: "Bundle",
    shards_with: "Callable[[Decoder], ShardRefresh]",
) -> "Iterator[ShardRuns]":
    from offline.refresh.job import on_this_machine

    decoder = open_decoder(bundle)
    try:
        yield on_this_machine(shards_with(decoder))
    finally:
        decoder.close()


@contextmanager
def _runs_on_ray(job: "WorkerJob", ray: RayOptions, shards: int) -> "Iterator[ShardRuns]":
    from offline.refresh.on_ray import on_ray
    from offline.refresh.ray_cluster import ray_workers

    with ray_workers(ray.address, count=ray.workers, cpus=ray.worker_cpus, gpus=ray.worker_gpus) as workers:
        yield on_ray(job, workers, shards)
