"""`tessera refresh --stale` and `--watch`: the refreshes that choose their users."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING

import typer

from command_line.common import open_bundle, read_data, redis_url
from model_store.errors import TesseraError

if TYPE_CHECKING:
    from app.settings import Settings
    from model_store.bundle import Bundle
    from model_store.decoders.protocol import Decoder
    from offline.refresh.config import RefreshConfig
    from offline.refresh.priority import PriorityRule
    from offline.refresh.watch import WatchConfig


def refuse_together(what: str, **others: object) -> None:
    """Say which of the given options make no sense there.

    Raises:
        TesseraError: one of them was given.
    """
    if given := _names(others):
        hint = "; nothing has to be resumed, give the same command again" if "--resume" in given else ""
        raise TesseraError(f"refresh {what}: cannot be combined with {', '.join(given)}{hint}")


def refuse_without(option: str, **others: object) -> None:
    """Say which of the given options are only for one that was not given.

    Raises:
        TesseraError: one of them was given.
    """
    if given := _names(others):
        raise TesseraError(f"refresh: {', '.join(given)}: only with {option}")


def refresh_stale(
    settings: "Settings",
    rule: "PriorityRule",
    config: "RefreshConfig",
    open_decoder: "Callable[[Bundle], Decoder]",
    *,
    data: Path | None,
    columns: list[str] | None,
    version: str | None,
    most: int | None,
    budget_s: float | None,
    as_json: bool,
) -> None:
    """Refresh whoever is worth it, most worth first, within the budgets; print how far it came."""
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.histories import import_histories
    from offline.refresh.selected_refresh import run_selected_refresh
    from offline.refresh.selection import select_everyone
    from offline.refresh.user_refresh import UserRefresh
    from offline.reranking import ranker_record

    bundle = open_bundle(settings, version)
    if config.candidates is not None:
        ranker_record(bundle)
    keys, redis = Keys(settings.namespace), connect(redis_url(settings))
    with told("refresh --stale"):
        if data is not None:
            import_histories(redis, keys, read_data(data, columns), config)
        selection = select_everyone(redis, keys, bundle, rule, most=most)
    decoder = open_decoder(bundle)
    try:
        summary = run_selected_refresh(
            bundle.version,
            UserRefresh(redis, keys, bundle, decoder, config),
            bundle.entry_layout,
            selection,
            config=config,
            budget_s=budget_s,
        )
    finally:
        decoder.close()
    if as_json:
        typer.echo(json.dumps(vars(summary)))
    else:
        typer.echo(
            f"{summary.version}: {summary.users} users, top {kept_of(summary.k, config)}, {summary.seconds:.1f} s "
            f"({summary.users_per_second:.0f} users/s), {summary.skipped} without a known item, {summary.left} left"
        )


def watch_traffic(
    settings: "Settings",
    rule: "PriorityRule",
    config: "RefreshConfig",
    watch_config: "WatchConfig",
    open_decoder: "Callable[[Bundle], Decoder]",
    metrics_port: int | None,
) -> None:
    """Refresh until SIGTERM or SIGINT; the batch under way is finished. A second signal ends it at once."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect
    from offline.refresh.followed_version import FollowedVersion
    from offline.refresh.metrics import WatchMetrics, serve_metrics
    from offline.refresh.watch import Watch
    from offline.refresh.watch_lock import WatchLock

    stop = Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    keys = Keys(settings.namespace)
    redis = connect(redis_url(settings))
    metrics = WatchMetrics(watch_config.target)
    if metrics_port is not None:
        serve_metrics(metrics.registry, metrics_port)
    version = FollowedVersion(redis, keys, ModelStore(settings.store), open_decoder, config)
    try:
        version.start()
        Watch(
            redis,
            keys,
            version,
            WatchLock(redis, keys),
            rule=rule,
            refresh_config=config,
            config=watch_config,
            metrics=metrics,
        ).run(stop)
    finally:
        version.close()


def kept_of(k: int, config: "RefreshConfig") -> str:
    """How many items are kept of each user, and of how many where a ranker orders them."""
    return str(k) if config.candidates is None else f"{k} of {config.candidates} ranked"


def _names(options: dict[str, object]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
