"""`tessera export`: what the service knows, as files that can be imported again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from command_line.common import AsJson, Version, open_bundle, read_settings, redis_url, reports_errors

if TYPE_CHECKING:
    import pyarrow as pa

    from app.settings import Settings
    from model_store.cache_keys import EntryLayout, Keys

export = typer.Typer(help="Events, items and users as CSV, Parquet or JSON Lines.", no_args_is_help=True)

ExportFile = Annotated[
    Path, typer.Argument(metavar="FILE", help=".csv, .parquet or .jsonl; - for JSON Lines on standard output.")
]


@export.command("events")
@reports_errors
def export_events(file: ExportFile, as_json: AsJson = False) -> None:
    """Users' histories, oldest first. Redis keeps no times: `position` says the order."""
    from model_store.cache_keys import Keys
    from offline.export.exported_rows import EVENTS, event_rows
    from offline.redis_connection import connect, told

    settings = read_settings()
    redis = connect(redis_url(settings))
    with told("export events"):
        _write(file, EVENTS, event_rows(redis, Keys(settings.namespace)), as_json)


@export.command("items")
@reports_errors
def export_items(file: ExportFile, version: Version = None, as_json: AsJson = False) -> None:
    """The items of a version, the served one by default, as they are now, with their codes; new ones too."""
    from model_store.cache_keys import Keys
    from offline.export.exported_rows import ITEMS, item_rows
    from offline.item_changes import ItemChanges
    from offline.redis_connection import connect, told

    settings = read_settings()
    redis, keys = connect(redis_url(settings)), Keys(settings.namespace)
    changes = ItemChanges(redis, keys)
    with told("export items"):
        version = version or _served(settings, redis, keys)
        changes.read_on()
    _write(file, ITEMS, item_rows(open_bundle(settings, version), changes.records), as_json)


@export.command("users")
@reports_errors
def export_users(file: ExportFile, as_json: AsJson = False) -> None:
    """Everyone with a history or a cached list: how long, whether, how old, decoded when (Unix seconds)."""
    from model_store.cache_keys import Keys
    from offline.export.exported_rows import USERS, user_rows
    from offline.redis_connection import connect, told

    settings = read_settings()
    redis, keys = connect(redis_url(settings)), Keys(settings.namespace)
    with told("export users"):
        _write(file, USERS, user_rows(redis, keys, _layout(settings, redis, keys)), as_json)


def _write(file: Path, schema: "pa.Schema", parts: Iterator[list[dict[str, Any]]], as_json: bool) -> None:
    from offline.export.row_files import STDOUT, row_file

    rows = 0
    with row_file(file, schema) as write:
        for part in parts:
            write(part)
            rows += len(part)
    # Where the rows are on standard output, nothing else is.
    said = json.dumps({"file": str(file), "rows": rows}) if as_json else f"{rows} rows"
    typer.echo(said, err=file == STDOUT)


def _served(settings: "Settings", redis: Any, keys: "Keys") -> str | None:
    from model_store.bundle import ModelStore
    from offline.refresh.registered_caches import served_version

    return served_version(redis, keys, ModelStore(settings.store))


def _layout(settings: "Settings", redis: Any, keys: "Keys") -> "EntryLayout | None":
    """Where the served version's entries are; None without such a version in the store."""
    from model_store.bundle import ModelStore

    store, served = ModelStore(settings.store), _served(settings, redis, keys)
    return store.manifest(served).entry_layout if served is not None and served in store.versions() else None
