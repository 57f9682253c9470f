"""`tessera backup` and `tessera restore`: what Redis holds, and the published versions, in one file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import AsJson, read_settings, redis_url, reports_errors

commands = typer.Typer()

BackupFile = Annotated[Path, typer.Argument(metavar="FILE.tar", help="The backup.")]


@commands.command()
@reports_errors
def backup(
    file: BackupFile,
    with_store: Annotated[
        bool, typer.Option("--with-store", help="The served version too, and those with cached lists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write all that Redis holds of the namespace to a file. The service may go on meanwhile."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.backup.backup import back_up
    from offline.redis_connection import connect, told

    settings = read_settings()
    redis = connect(redis_url(settings))
    with told("backup"):
        done = back_up(redis, Keys(settings.namespace), file, ModelStore(settings.store) if with_store else None)
    if as_json:
        typer.echo(json.dumps(done.as_dict()))
        return
    versions = f", versions {', '.join(done.versions)}" if done.versions else ""
    typer.echo(f"{file}: {_counted(done.keys)}{versions}, {done.bytes / 1e6:.1f} MB")


@commands.command()
@reports_errors
def restore(
    file: BackupFile,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the namespace has keys: they are deleted, the backup's written.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring back a backup, checked before anything is written. One that was interrupted: give the command again."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.backup.restore import restore as restore_backup
    from offline.redis_connection import connect, told

    settings = read_settings()
    redis = connect(redis_url(settings))
    with told("restore"):
        done = restore_backup(redis, Keys(settings.namespace), file, ModelStore(settings.store), force=force)
    if as_json:
        typer.echo(json.dumps(done.as_dict()))
        return
    gone = f", in place of {done.replaced} keys" if done.replaced else ""
    typer.echo(
        f"{done.namespace}: {_counted(done.keys)} as of {done.created_at}{gone}"
        + (" (an interrupted restore, done again)" if done.resumed else "")
    )
    for version in done.versions:
        typer.echo(f"published {version}")
    for version in done.versions_there:
        typer.echo(f"{version} was there already")


def _counted(keys: dict[str, int]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in keys.items())
    return f"{sum(keys.values())} keys" + (f" ({kinds})" if kinds else "")
