"""`tessera events`: interaction events."""

import json
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import AsJson, Columns, read_data, read_settings, redis_url, reports_errors

events = typer.Typer(help="Interaction events.", no_args_is_help=True)


@events.command("import")
@reports_errors
def events_import(
    file: Annotated[Path, typer.Argument(help="Folder with interactions, in any format that train reads.")],
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Bring histories in Redis up to those of a data folder."""
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.config import RefreshConfig
    from offline.refresh.histories import import_histories

    settings = read_settings()
    redis = connect(redis_url(settings))
    config = RefreshConfig(history_length=settings.history_length, history_ttl_s=settings.history_ttl_s)
    dataset = read_data(file, columns)
    with told("events import"):
        import_histories(redis, Keys(settings.namespace), dataset, config)
    users = len(dataset.user_ids)
    typer.echo(json.dumps({"users": users}) if as_json else f"{users} users")
