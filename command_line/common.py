"""What the commands share: options, settings, and one line for expected trouble."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_store.errors import TesseraError

if TYPE_CHECKING:
    from app.settings import Settings
    from model_store.bundle import Bundle
    from model_store.decoders.protocol import Decoder
    from offline.column_names import ColumnNames
    from offline.interactions import Dataset
    from offline.rejected_rows import Rejections

DataFolder = Annotated[
    Path,
    typer.Option("--data", help="Folder of RecBole atomic files, CSV, Parquet or JSON Lines."),
]
Engine = Literal["auto", "torch", "vllm"]
Version = Annotated[str | None, typer.Option("--version", help="Model version; the active one by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Name a column: user=, item=, timestamp=, title=, price=, ... Repeatable."),
]
RejectedFile = Annotated[
    Path | None, typer.Option("--rejected", help="Write rows that were not taken to this file, as JSON Lines.")
]

_VLLM_BATCH = 16
"""Users of a forward pass."""


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn expected trouble into one line and exit code 1."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except TesseraError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; finished work is kept", err=True)
            raise typer.Exit(130) from None

    return wrapped


def read_settings() -> "Settings":
    """Settings from the environment."""
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "TESSERA_" + "_".join(str(part) for part in first["loc"]).upper()
        raise TesseraError(f"{name}: {first['msg']}") from None


def column_names(columns: list[str] | None) -> "ColumnNames":
    """The columns that `--column` names."""
    import dataclasses

    from offline.column_names import ColumnNames

    known = {field.name for field in dataclasses.fields(ColumnNames)}
    names = dict(column.partition("=")[::2] for column in columns or [])
    for name, value in names.items():
        if name not in known or not value:
            raise TesseraError(
                f"--column {name}={value}: expected one of {', '.join(sorted(known))}, then = and a name"
            )
    return ColumnNames(**names)


def read_data(folder: Path, columns: list[str] | None) -> "Dataset":
    """Read a data folder; what was left out of it is said on stderr."""
    from offline.interactions import read_dataset

    dataset = read_dataset(folder, column_names(columns))
    for warning in dataset.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return dataset


def print_rejections(file: Path, rejected: "Rejections") -> None:
    """Say on stderr which rows were not taken, the first of them; never what is in them."""
    for row in rejected.first:
        typer.echo(f"warning: {file}: {row}", err=True)
    if more := rejected.count - len(rejected.first):
        typer.echo(f"warning: {file}: and {more} more; --rejected FILE gets them all", err=True)


def open_bundle(settings: "Settings", version: str | None) -> "Bundle":
    """A published version, the active one where none is named."""
    from model_store.bundle import ModelStore

    return ModelStore(settings.store).open(version)


def redis_url(settings: "Settings") -> str:
    """Address of the Redis in use; an embedded one is started where none is configured."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    from app.embedded_redis import ensure_running

    return ensure_running(settings.home)


def serve_version(settings: "Settings", version: str | None) -> str:
    """Make a version the active one, in the store and for running services; None for the one before. Returns it."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect

    # Redis first: a version that running services cannot follow must not become the one they restart with.
    redis = connect(redis_url(settings))
    store = ModelStore(settings.store)
    if version is None:
        version = store.rollback()
    else:
        store.activate(version)
    redis.set(Keys(settings.namespace).active, version)
    return version


def has_entries(settings: "Settings", version: str) -> bool:
    """Whether any list of this version was ever cached, and not purged."""
    from model_store.bundle import ModelStore
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect

    layout = ModelStore(settings.store).manifest(version).entry_layout
    redis = connect(redis_url(settings))
    return bool(redis.hexists(Keys(settings.namespace).caches, layout.cache_version))


def open_decoder(bundle: "Bundle", *, engine: Engine) -> "Decoder":
    """The decoder of a whole refresh, checked. Ray's workers find it here by name."""
    from app.decoder.engines import choose_engine
    from model_store.decoders.torch_decoder import TorchDecoder

    if choose_engine(engine) == "torch":
        return TorchDecoder.from_bundle(bundle)
    from model_store.decoders.vllm.decoder import VLLMDecoder

    decoder, _ = VLLMDecoder.checked(bundle, batch_size=_VLLM_BATCH)
    return decoder


def quiet_libraries() -> None:
    """Keep the progress bars and hints of libraries out of ours, unless their own variables ask for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
