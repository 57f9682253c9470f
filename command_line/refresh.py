"""`tessera refresh` and `tessera events`: what fills Redis."""

import functools
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from command_line.common import (
    AsJson,
    Columns,
    Version,
    open_bundle,
    quiet_libraries,
    read_data,
    read_settings,
    redis_url,
    reports_errors,
    serve_version,
)
from model_store.errors import TesseraError

if TYPE_CHECKING:
    from model_store.bundle import Bundle
    from model_store.cache_keys import Keys
    from model_store.decoders.protocol import Decoder
    from offline.refresh.config import RefreshConfig
    from offline.refresh.job import ShardRuns
    from offline.refresh.ledger import Ledger
    from offline.refresh.ray_worker import WorkerJob

_VLLM_BATCH = 16
"""Users of a forward pass."""

commands = typer.Typer()
events = typer.Typer(help="Interaction events.", no_args_is_help=True)
commands.add_typer(events, name="events")


@commands.command()
@reports_errors
def refresh(
    data: Annotated[Path | None, typer.Option(help="Import this folder's histories first.")] = None,
    version: Version = None,
    users: Annotated[Path | None, typer.Option(help="Only the users of this file, one id a line.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only users with news, or without an entry.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on behind a refresh that was stopped.")] = False,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Fill this version without serving it; `models activate` does that later.")
    ] = False,
    coverage: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the users who must have an entry for this version to be served."),
    ] = 0.9,
    engine: Annotated[
        Literal["auto", "torch", "vllm"],
        typer.Option(help="What runs the model. auto: vLLM where it is installed and there is a GPU, else torch."),
    ] = "auto",
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Refresh on a Ray cluster: local, auto or HOST:PORT."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of --ray: processes; as many as the cluster holds by default.")
    ] = None,
    worker_cpus: Annotated[int, typer.Option(min=1, help="Of --ray: cores of each worker.")] = 1,
    worker_gpus: Annotated[
        float | None, typer.Option(min=0, help="Of --ray: GPUs of each worker; 1 by default if the cluster has any.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="Items kept for each user.")] = 20,
    beam: Annotated[int, typer.Option(min=1, max=1000, help="Beams of the constrained decode.")] = 50,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Decode users' top items into Redis, then serve this version."""
    quiet_libraries()
    from pydantic import SecretStr

    from model_store.cache_keys import Keys
    from offline.redis_connection import connect
    from offline.refresh.config import RefreshConfig
    from offline.refresh.histories import import_histories, users_of_file, users_with_history
    from offline.refresh.job import ShardRuns, run_refresh
    from offline.refresh.ledger import Ledger, Plan
    from offline.refresh.ray_cluster import LOCAL
    from offline.refresh.ray_worker import WorkerJob
    from offline.refresh.stale_users import stale_users
    from offline.refresh.user_plan import user_plan

    settings = read_settings()
    if ray is None and (workers, worker_cpus, worker_gpus) != (None, 1, None):
        raise TesseraError("refresh: --workers, --worker-cpus and --worker-gpus are of --ray")
    if ray not in (None, LOCAL) and settings.redis_url is None:
        raise TesseraError(
            f"--ray {ray}: workers on other machines cannot reach the embedded Redis; set TESSERA_REDIS_URL"
        )
    bundle = open_bundle(settings, version)
    config = RefreshConfig(
        k=k,
        beam_width=max(beam, k),
        entry_ttl_s=settings.entry_ttl_s,
        history_length=settings.history_length,
        history_ttl_s=settings.history_ttl_s,
    )
    partial = users is not None or stale
    keys = Keys(settings.namespace)
    url = redis_url(settings)
    redis = connect(url)
    chosen: Iterable[str]
    if data is not None:
        dataset = read_data(data, columns)
        import_histories(redis, keys, dataset, config)
        chosen = dataset.user_ids
    else:
        chosen = users_with_history(redis, keys)
    if users is not None:
        chosen = users_of_file(users)
    if stale:
        chosen = stale_users(redis, keys, bundle.entry_layout, chosen)
    with user_plan(chosen, bundle.entry_layout) as listed:
        if not listed.users and not stale:
            raise TesseraError("refresh: no user has a history in Redis; import some with --data DIR")
        ledger = Ledger(redis, keys, bundle.version, partial=partial)
        plan = Plan.of(bundle, config, listed.buckets_per_shard(config.shard_users))
        runs: AbstractContextManager[ShardRuns]
        if ray is None:
            runs = _runs_here(redis, keys, bundle, config, ledger, engine, partial)
        else:
            job = WorkerJob(
                store=settings.store.absolute(),
                version=bundle.version,
                redis_url=SecretStr(url),
                namespace=settings.namespace,
                config=config,
                partial=partial,
                open_decoder=functools.partial(open_decoder, engine=engine),
            )
            shards = -(-plan.buckets // plan.buckets_per_shard)
            runs = _runs_on_ray(job, shards, ray, count=workers, cpus=worker_cpus, gpus=worker_gpus)
        with runs as run:
            summary = run_refresh(bundle.version, listed, run, ledger, plan, resume=resume)
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
            f"{summary.version}: {summary.users} users, top {summary.k}, {summary.seconds:.1f} s "
            f"({summary.users_per_second:.0f} users/s), {summary.skipped} without a known item"
        )
    if not (serve or partial or shadow):
        raise TesseraError(
            f"refresh: {summary.coverage:.1%} of the users have an entry of {bundle.version}, {coverage:.1%} were "
            "asked for, so it is not served; was it trained on this catalogue? --coverage takes a smaller share"
        )


@contextmanager
def _runs_here(
    redis: Any,
    keys: "Keys",
    bundle: "Bundle",
    config: "RefreshConfig",
    ledger: "Ledger",
    engine: Literal["auto", "torch", "vllm"],
    partial: bool,
) -> "Iterator[ShardRuns]":
    from offline.refresh.job import on_this_machine
    from offline.refresh.shard_refresh import ShardRefresh
    from offline.refresh.user_refresh import UserRefresh

    decoder = open_decoder(bundle, engine=engine)
    try:
        by_user = UserRefresh(redis, keys, bundle, decoder, config)
        yield on_this_machine(ShardRefresh(by_user, ledger, forget_departed=not partial))
    finally:
        decoder.close()


@contextmanager
def _runs_on_ray(
    job: "WorkerJob", shards: int, address: str, *, count: int | None, cpus: int, gpus: float | None
) -> "Iterator[ShardRuns]":
    from offline.refresh.on_ray import on_ray
    from offline.refresh.ray_cluster import ray_workers

    with ray_workers(address, count=count, cpus=cpus, gpus=gpus) as workers:
        yield on_ray(job, workers, shards)


def open_decoder(bundle: "Bundle", *, engine: Literal["auto", "torch", "vllm"]) -> "Decoder":
    """The decoder of a whole refresh, checked. Ray's workers find it here by name."""
    from app.decoder.engines import choose_engine
    from model_store.decoders.torch_decoder import TorchDecoder

    if choose_engine(engine) == "torch":
        return TorchDecoder.from_bundle(bundle)
    from model_store.decoders.vllm.decoder import VLLMDecoder

    decoder, _ = VLLMDecoder.checked(bundle, batch_size=_VLLM_BATCH)
    return decoder


@events.command("import")
@reports_errors
def events_import(
    file: Annotated[Path, typer.Argument(help="Folder with interactions, in any format that train reads.")],
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Bring histories in Redis up to those of a data folder."""
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect
    from offline.refresh.config import RefreshConfig
    from offline.refresh.histories import import_histories

    settings = read_settings()
    redis = connect(redis_url(settings))
    config = RefreshConfig(history_length=settings.history_length, history_ttl_s=settings.history_ttl_s)
    dataset = read_data(file, columns)
    import_histories(redis, Keys(settings.namespace), dataset, config)
    users = len(dataset.user_ids)
    typer.echo(json.dumps({"users": users}) if as_json else f"{users} users")
