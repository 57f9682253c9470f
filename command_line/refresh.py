"""`tessera refresh`: decode users' lists into Redis. What it does is in the modules beside this one."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import (
    AsJson,
    Columns,
    Engine,
    Version,
    open_decoder,
    quiet_libraries,
    read_settings,
    reports_errors,
)

commands = typer.Typer()

_CANDIDATES = 50


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
        int | None,
        typer.Option(
            min=0,
            help="With --stale or --watch: seconds until an entry is too old; TESSERA_CACHE_MAX_AGE_S by default.",
        ),
    ] = None,
    need: Annotated[
        int, typer.Option(min=1, help="With --stale or --watch: items of an entry that should still be available.")
    ] = 10,
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
        Engine,
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
    rank: Annotated[
        bool, typer.Option("--rank", help="Have the version's ranker order what was decoded; its first K are kept.")
    ] = False,
    candidates: Annotated[
        int | None, typer.Option(min=1, max=1000, help="With --rank: items it orders; 50, or K where that is more.")
    ] = None,
    rank_weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --rank: its share of the order, the decoder has the rest; 1 by default."),
    ] = None,
    columns: Columns = None,
    as_json: AsJson = False,
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
) -> None:
    """Decode users' top items into Redis, then serve this version."""
    quiet_libraries()
    if until_stdin_closes:
        from app.decoder.parent_watch import end_when_stdin_closes

        end_when_stdin_closes()
    from command_line.full_refresh import RayOptions, refresh_all
    from command_line.partial_refresh import refresh_stale, refuse_together, refuse_without, watch_traffic
    from offline.refresh.config import RefreshConfig
    from offline.refresh.priority import PriorityRule
    from offline.refresh.watch import WatchConfig

    on_ray = {"workers": workers, "worker_cpus": worker_cpus > 1, "worker_gpus": worker_gpus is not None}
    if watch:
        refuse_together(
            "--watch",
            data=data,
            version=version,
            users=users,
            stale=stale,
            resume=resume,
            shadow=shadow,
            ray=ray,
            **on_ray,
        )
    if stale:
        refuse_together(
            "--stale", users=users, resume=resume, shadow=shadow, metrics_port=metrics_port, ray=ray, **on_ray
        )
    else:
        refuse_without("--stale", budget_users=budget_users, budget_s=budget_s is not None)
    if ray is None:
        refuse_without("--ray", **on_ray)
    if not rank:
        refuse_without("--rank", candidates=candidates, rank_weight=rank_weight is not None)
    settings = read_settings()
    rule = PriorityRule(settings.cache_max_age_s if max_age is None else max_age, need)
    ordered = candidates or max(k, _CANDIDATES)
    config = RefreshConfig(
        k=k,
        beam_width=max(beam, k, ordered if rank else 0),
        candidates=ordered if rank else None,
        rank_weight=1.0 if rank_weight is None else rank_weight,
        entry_ttl_s=settings.entry_ttl_s,
        history_length=settings.history_length,
        history_ttl_s=settings.history_ttl_s,
    )
    decoder = functools.partial(open_decoder, engine=engine)
    if watch:
        watch_config = WatchConfig(target=target, interval_s=interval, scan_every_s=scan_every)
        watch_traffic(settings, rule, config, watch_config, decoder, metrics_port)
    elif stale:
        refresh_stale(
            settings,
            rule,
            config,
            decoder,
            data=data,
            columns=columns,
            version=version,
            most=budget_users,
            budget_s=budget_s,
            as_json=as_json,
        )
    else:
        refresh_all(
            settings,
            config,
            decoder,
            data=data,
            columns=columns,
            version=version,
            users=users,
            resume=resume,
            shadow=shadow,
            coverage=coverage,
            ray=None if ray is None else RayOptions(ray, workers, worker_cpus, worker_gpus),
            metrics_port=metrics_port,
            as_json=as_json,
        )
