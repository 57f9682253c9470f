"""`tessera items`: the catalogue of a published version, without training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import (
    AsJson,
    Columns,
    RejectedFile,
    Version,
    column_names,
    open_bundle,
    print_rejections,
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
    rejected: RejectedFile = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Give new items codes from their text and publish the version with them; cached lists stay valid."""
    quiet_libraries()
    from model_store.bundle import ModelStore
    from offline.add_items import add_items_of_file
    from offline.item_additions import NothingAccepted
    from offline.rejected_rows import rejections

    settings = read_settings()
    store, base = ModelStore(settings.store), open_bundle(settings, version)
    with rejections(rejected) as bad:
        try:
            result = add_items_of_file(store, base, file, column_names(columns))
        except NothingAccepted as error:
            bad.add_all(error.rejected)
            raise
        bad.add_all(result.rejected)
    print_rejections(file, bad)
    if activate:
        serve_version(settings, result.bundle.version)
    if as_json:
        typer.echo(json.dumps(result.as_dict() | bad.as_dict()))
        return
    typer.echo(
        f"{result.bundle.version}: {result.added} items added, {result.updated} updated, "
        f"{bad.count} rows rejected" + ("" if activate else "; serve it with `tessera models activate`")
    )
