"""`tessera items`: the catalogue of a published version, without training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import (
    AsJson,
    Columns,
    Version,
    column_names,
    open_bundle,
    quiet_libraries,
    read_settings,
    redis_url,
    reports_errors,
)

items = typer.Typer(help="Items of a published version.", no_args_is_help=True)


@items.callback()
def _group() -> None:
    """Items of a published version."""


@items.command("add")
@reports_errors
def add(
    file: Annotated[
        Path, typer.Argument(help="CSV, JSON Lines, Parquet or RecBole .item file of new or changed items.")
    ],
    version: Version = None,
    activate: Annotated[bool, typer.Option("--activate", help="Serve the extended version at once.")] = False,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Give new items codes from their text and publish the version with them; cached lists stay valid."""
    quiet_libraries()
    from model_store.bundle import ModelStore
    from model_store.cache_schema import Keys
    from offline.add_items import add_items_of_file
    from offline.redis_connection import connect

    settings = read_settings()
    store = ModelStore(settings.store)
    result = add_items_of_file(store, open_bundle(settings, version), file, column_names(columns))
    for row in result.rejected:
        typer.echo(f"warning: {file}: {row}", err=True)
    if activate:
        # Redis first: a version that running services cannot follow must not become the one they restart with.
        redis = connect(redis_url(settings))
        store.activate(result.bundle.version)
        redis.set(Keys(settings.namespace).active, result.bundle.version)
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(
        f"{result.bundle.version}: {result.added} items added, {result.updated} updated, "
        f"{len(result.rejected)} rows rejected" + ("" if activate else "; serve it with `tessera models activate`")
    )
