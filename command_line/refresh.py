"""`tessera refresh` and `tessera events`: what fills Redis."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    from model_store.decoders.protocol import Decoder

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
    stale: Annotated[
        bool, typer.Option("--stale", help="Only users whose entry is missing or out of date, most worth it first.")
    ] = False,
    budget_users: Annotated[int | None, typer.Option(min=1, help="With --stale: so many users at most.")] = None,
    budget_s: Annotated[float | None, typer.Option(min=0, help="With --stale: for so many seconds.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until SIGTERM, so that traffic is served from fresh entries.")
    ] = False,
    target: Annotated[float, typer.Option(min=0, max=1, help="With --watch: share to be served fresh.")] = 0.95,
    interval: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between rounds.")] = 10.0,
    scan_every: Annotated[float, typer.Option(min=1, help="With --watch: seconds between looks at all entries.")] = 600,
    max_age: Annotated[
        int | None, typer.Option(min=0, help="Seconds until an entry is too old; TESSERA_CACHE_MAX_AGE_S by default.")
    ] = None,
    need: Annotated[int, typer.Option(min=1, help="Items of an entry that should still be available.")] = 10,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics on this port of 127.0.0.1.")
    ] = None,
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
    ray: Annotated[str | None, typer.Option(help="Ray cluster to run on.")] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="Items kept for each user.")] = 20,
    beam: Annotated[int, typer.Option(min=1, max=1000, help="Beams of the constrained decode.")] = 50,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Decode users' top items into Redis, then serve this version."""
    if ray is not None:
        raise TesseraError("--ray: refreshing on a Ray cluster is not built yet; run without it on one machine")
    quiet_libraries()
    from command_line.partial_refresh import refresh_stale, refuse_together, watch_traffic
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect
    from offline.refresh.config import RefreshConfig
    from offline.refresh.histories import import_histories, users_of_file, users_with_history
    from offline.refresh.job import on_this_machine, run_refresh
    from offline.refresh.ledger import Ledger, Plan
    from offline.refresh.priority import PriorityRule
    from offline.refresh.shard_refresh import ShardRefresh
    from offline.refresh.user_plan import user_plan
    from offline.refresh.user_refresh import UserRefresh
    from offline.refresh.watch import WatchConfig
    from offline.refresh.watch_metrics import FullRefreshMetrics, serve_metrics

    if watch:
        refuse_together("--watch", data=data, version=version, users=users, stale=stale, resume=resume, shadow=shadow)
    if stale:
        refuse_together("--stale", users=users, resume=resume, metrics_port=metrics_port)
    else:
        refuse_together("without --stale", budget_users=budget_users, budget_s=budget_s is not None)
    settings = read_settings()
    rule = PriorityRule(settings.cache_max_age_s if max_age is None else max_age, need)
    config = RefreshConfig(
        k=k,
        beam_width=max(beam, k),
        entry_ttl_s=settings.entry_ttl_s,
        history_length=settings.history_length,
        history_ttl_s=settings.history_ttl_s,
    )

    def open_decoder(bundle: "Bundle") -> "Decoder":
        return _decoder(bundle, engine)

    if watch:
        watch_config = WatchConfig(target=target, interval_s=interval, scan_every_s=scan_every)
        watch_traffic(settings, rule, config, watch_config, open_decoder, metrics_port)
        return
    bundle = open_bundle(settings, version)
    partial = users is not None
    keys = Keys(settings.namespace)
    redis = connect(redis_url(settings))
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
        refresh_stale(
            redis, keys, bundle, rule, config, open_decoder, most=budget_users, budget_s=budget_s, as_json=as_json
        )
        return
    metrics = FullRefreshMetrics()
    if metrics_port is not None:
        serve_metrics(metrics.registry, metrics_port)
    with user_plan(chosen, bundle.entry_layout) as listed:
        if not listed.users:
            raise TesseraError("refresh: no user has a history in Redis; import some with --data DIR")
        decoder = open_decoder(bundle)
        try:
            ledger = Ledger(redis, keys, bundle.version, partial=partial)
            by_user = UserRefresh(redis, keys, bundle, decoder, config)
            run = on_this_machine(ShardRefresh(by_user, ledger, forget_departed=not partial))
            plan = Plan.of(bundle, config, listed.buckets_per_shard(config.shard_users))
            summary = run_refresh(bundle.version, listed, run, ledger, plan, resume=resume, observe=metrics.observe)
        finally:
            decoder.close()
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


def _decoder(bundle: "Bundle", engine: Literal["auto", "torch", "vllm"]) -> "Decoder":
    """The decoder of a whole refresh, checked."""
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
