"""`tessera cache`: what is in Redis."""

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from command_line.common import AsJson, read_settings, redis_url, reports_errors

if TYPE_CHECKING:
    from offline.refresh.cache_stats import CacheStats, Sample
    from offline.refresh.redis_stats import RedisStats

cache = typer.Typer(help="Cached entries in Redis.", no_args_is_help=True)

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


@cache.command("stats")
@reports_errors
def stats(as_json: AsJson = False) -> None:
    """What is cached of each version, how old it is, and how much memory it takes. Changes nothing."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.cache_stats import cache_stats
    from offline.refresh.redis_stats import redis_stats
    from offline.refresh.registered_caches import registered_caches

    settings = read_settings()
    keys, redis = Keys(settings.namespace), connect(redis_url(settings))
    with told("cache stats"):
        server = redis_stats(redis, keys)
        caches = [cache_stats(redis, keys, one) for one in registered_caches(redis, keys, ModelStore(settings.store))]
    if as_json:
        found = {"redis": dataclasses.asdict(server), "caches": [dataclasses.asdict(one) for one in caches]}
        typer.echo(json.dumps(found))
        return
    bound = f"of {server.max_memory / 1e6:.1f} MB" if server.max_memory else "used, no maxmemory"
    typer.echo(
        f"Redis {server.server}: {server.used_memory / 1e6:.1f} MB {bound}; "
        f"{server.keys} keys; {server.dirty} users with news since their decode"
    )
    for one in caches:
        _print_cache(one, server)
    if not caches:
        typer.echo("nothing is cached; `tessera refresh` does that")


@cache.command("purge")
@reports_errors
def purge(
    version: Annotated[str, typer.Option("--version", help="Whose entries to delete.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it is being served.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all entries of a version now; left alone, those of a version nobody serves expire. Histories stay."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.cache_purge import purge as purge_cache
    from offline.refresh.registered_caches import registered_cache

    settings = read_settings()
    keys, redis = Keys(settings.namespace), connect(redis_url(settings))
    with told("cache purge"):
        entries = purge_cache(
            redis, keys, registered_cache(redis, keys, ModelStore(settings.store), version), force=force
        )
    typer.echo(json.dumps({"version": version, "entries": entries}) if as_json else f"{version}: {entries} entries")


def _print_cache(found: "CacheStats", server: "RedisStats") -> None:
    also = [version for version in found.versions if version != found.version]
    typer.echo(
        f"{'*' if found.active else ' '} {found.version}{', ' if also else ''}{', '.join(also)}: {found.users} users, "
        f"{found.megabytes:.1f} MB; {found.users_per_bucket:.1f} in each of {found.buckets} buckets, "
        f"at most {found.users_of_fullest_bucket}"
    )
    if found.sample is None:
        typer.echo(f"    empty; `tessera cache purge --version {found.version}` forgets the name")
    else:
        _print_sample(found, found.sample, server)
    for refresh in found.refreshes:
        of_all = "" if refresh.shards_at_most is None else f" of {refresh.shards_at_most} at most"
        kind = "some users" if refresh.partial else "all users"
        typer.echo(
            f"    refresh of {kind} under {refresh.version}, running or stopped: "
            f"{refresh.shards_done} shards{of_all}, {refresh.entries_written} entries"
        )


def _print_sample(found: "CacheStats", sample: "Sample", server: "RedisStats") -> None:
    ages = "no readable entry"
    if sample.youngest_s is not None and sample.median_s is not None and sample.oldest_s is not None:
        ages = f"age {_age(sample.median_s)} ({_age(sample.youngest_s)} to {_age(sample.oldest_s)})"
    expiry = "without an expiry" if sample.expires_in_s is None else f"expire in {_age(sample.expires_in_s)} or later"
    typer.echo(
        f"    {sample.users} users looked at: {sample.bytes_per_user:.0f} bytes each, {ages}, "
        f"{sample.unreadable:.1%} unreadable, {sample.ranked:.1%} in a ranker's order, buckets {expiry}"
    )
    if sample.compact < 1:
        entries, value = found.compact_settings()
        kind = "listpack" if server.takes_listpack else "ziplist"
        typer.echo(
            f"    {1 - sample.compact:.0%} of the buckets are not compact: set `hash-max-{kind}-entries {entries}` and "
            f"`hash-max-{kind}-value {value}` in the configuration of Redis and restart it"
        )


def _age(seconds: int) -> str:
    for unit, name in _UNITS:
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds} s"
