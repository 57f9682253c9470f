"""`tessera events`: interaction events."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from command_line.common import (
    AsJson,
    Columns,
    RejectedFile,
    column_names,
    print_rejections,
    read_data,
    read_settings,
    redis_url,
    reports_errors,
)
from model_store.errors import TesseraError

if TYPE_CHECKING:
    from app.settings import Settings
    from model_store.cache_keys import Keys
    from offline.interactions import Dataset

_USERS_AT_ONCE = 1000

events = typer.Typer(help="Interaction events.", no_args_is_help=True)


@events.command("import")
@reports_errors
def events_import(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|FOLDER", help="CSV, Parquet, JSON Lines or RecBole .inter file; or a folder that train reads."
        ),
    ],
    append: Annotated[
        bool, typer.Option("--append", help="Add all events of the file behind the histories; twice adds twice.")
    ] = False,
    strict_items: Annotated[
        bool, typer.Option("--strict-items", help="Of a file: reject events of items the served catalogue has not.")
    ] = False,
    rejected: RejectedFile = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Bring histories in Redis up to those of a file or a data folder; what Redis alone knows stays, as the newest."""
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.config import RefreshConfig
    from offline.refresh.histories import import_histories

    settings = read_settings()
    redis = connect(redis_url(settings))
    config = RefreshConfig(history_length=settings.history_length, history_ttl_s=settings.history_ttl_s)
    keys = Keys(settings.namespace)
    if not source.is_dir():
        _import_file(settings, redis, keys, source, columns, append, strict_items, rejected, as_json)
        return
    for option, given in (("--append", append), ("--strict-items", strict_items), ("--rejected", rejected)):
        if given:
            raise TesseraError(f"{option} takes a file of events; {source} is a folder")
    dataset = read_data(source, columns)
    with told("events import"):
        import_histories(redis, keys, dataset, config)
    users = len(dataset.user_ids)
    typer.echo(json.dumps(_folder_summary(dataset)) if as_json else f"{users} users")


def _import_file(
    settings: "Settings",
    redis: Any,
    keys: "Keys",
    file: Path,
    columns: list[str] | None,
    append: bool,
    strict_items: bool,
    rejected: Path | None,
    as_json: bool,
) -> None:
    import time

    from offline.event_file import EventFile, require_file
    from offline.redis_connection import told
    from offline.refresh.config import RefreshConfig
    from offline.refresh.histories import append_histories, merge_histories
    from offline.rejected_rows import rejections

    require_file(file)
    config = RefreshConfig(history_length=settings.history_length, history_ttl_s=settings.history_ttl_s)
    with told("events import"):
        is_known = _known_items(settings, redis, keys)
        if strict_items and is_known is None:
            raise TesseraError("--strict-items: the store has no served version, and so there is no catalogue")
        found = EventFile(file, column_names(columns), is_known, strict_items=strict_items)
        now = time.time()
        with rejections(rejected) as bad:
            for histories in found.histories(bad):
                for start in range(0, len(histories), _USERS_AT_ONCE):
                    some = histories[start : start + _USERS_AT_ONCE]
                    if append:
                        append_histories(redis, keys, some, config, now)
                    else:
                        merge_histories(redis, keys, some, config)
    print_rejections(file, bad)
    counts = found.counts
    if as_json:
        summary = {
            "accepted": counts.accepted,
            "users": counts.users,
            "duplicates": counts.duplicates,
            "unknown_items": counts.unknown_items,
        }
        typer.echo(json.dumps(summary | bad.as_dict()))
    else:
        unknown = f", {counts.unknown_items} of unknown items" if counts.unknown_items else ""
        repeated = f", {counts.duplicates} repeat another" if counts.duplicates else ""
        typer.echo(f"{counts.accepted} events of {counts.users} users{unknown}{repeated}; {bad.count} rows rejected")
    if not counts.accepted:
        raise TesseraError(f"{file}: no event can be taken" if bad.count else f"{file}: no event in it")


def _known_items(settings: "Settings", redis: Any, keys: "Keys") -> Callable[[str], bool] | None:
    """Whether the served catalogue has an item; None without one in this store."""
    import pyarrow.parquet as pq

    from model_store.bundle import MODEL_FOLDERS, ModelStore
    from offline.refresh.registered_caches import served_version

    store = ModelStore(settings.store)
    version = served_version(redis, keys, store)
    if version not in store.versions():
        return None
    bundle = store.open(version, skip=MODEL_FOLDERS)
    table = pq.read_table(bundle.path / "items.parquet", columns=["item_id"])
    return frozenset(table["item_id"].to_pylist()).__contains__


def _folder_summary(dataset: "Dataset") -> dict[str, Any]:
    left_out = {
        "wrong number of fields",
        "not a JSON object",
        "empty user or item id",
        "unparsable timestamp",
        "unknown item",
    }
    rejected = sum(warning.count for warning in dataset.warnings if warning.kind in left_out)
    return {"accepted": len(dataset.items), "rejected": rejected, "users": len(dataset.user_ids)}
