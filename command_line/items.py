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
    reports_errors,
    serve_version,
)

items = typer.Typer(help="Items of a published version.", no_args_is_help=True)


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
    from offline.add_items import add_items_of_file

    settings = read_settings()
    result = add_items_of_file(ModelStore(settings.store), open_bundle(settings, version), file, column_names(columns))
    for row in result.rejected:
        typer.echo(f"warning: {file}: {row}", err=True)
    if activate:
        serve_version(settings, result.bundle.version)
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(
        f"{result.bundle.version}: {result.added} items added, {result.updated} updated, "
        f"{len(result.rejected)} rows rejected" + ("" if activate else "; serve it with `tessera models activate`")
    )
