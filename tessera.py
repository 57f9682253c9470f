"""The command line of Tessera.

Each command imports what it needs when it runs, so that `tessera serve` never loads torch and `--help` is quick.
Exit codes: 0 done, 1 could not (one line says what, where and what to do), 2 usage.
"""

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.errors import TesseraError

if TYPE_CHECKING:
    from app.settings import Settings
    from model_store.bundle import Bundle
    from offline.interactions import Dataset

app = typer.Typer(
    help="Recommendations written by a language model, served in a millisecond.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="Published model versions.", no_args_is_help=True)
events = typer.Typer(help="Interaction events.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(events, name="events")

DataFolder = Annotated[
    Path,
    typer.Option("--data", help="Folder of RecBole atomic files, CSV, Parquet or JSON Lines."),
]
Version = Annotated[str | None, typer.Option("--version", help="Model version; the active one by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Name a column: user=, item=, timestamp=, title=, price=, ... Repeatable."),
]


_EMBEDDED = "embedded"


def _reports_errors(command: Callable[..., None]) -> Callable[..., None]:
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


def _settings() -> "Settings":
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "TESSERA_" + "_".join(str(part) for part in first["loc"]).upper()
        raise TesseraError(f"{name}: {first['msg']}") from None


def _read(folder: Path, columns: list[str] | None) -> "Dataset":
    import dataclasses

    from offline.column_names import ColumnNames
    from offline.interactions import read_dataset

    known = {field.name for field in dataclasses.fields(ColumnNames)}
    names = dict(column.partition("=")[::2] for column in columns or [])
    for name, value in names.items():
        if name not in known or not value:
            raise TesseraError(
                f"--column {name}={value}: expected one of {', '.join(sorted(known))}, then = and a name"
            )
    dataset = read_dataset(folder, ColumnNames(**names))
    for warning in dataset.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return dataset


def _open(settings: "Settings", version: str | None) -> "Bundle":
    from model_store.bundle import ModelStore

    return ModelStore(settings.store).open(version)


def _redis_url(settings: "Settings") -> str:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    from app.embedded_redis import ensure_running

    return ensure_running(settings.home)


@app.command()
@_reports_errors
def train(
    data: DataFolder,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")] = "semantic-convergence",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: training.epochs=5. Repeatable.")
    ] = None,
    columns: Columns = None,
) -> None:
    """Train and publish a version; the last line on stdout is its name. A killed run continues where it was."""
    _quiet_libraries()
    from model_store.bundle import ModelStore
    from offline.recipe import load_recipe
    from offline.train import Run
    from offline.train import train as run_training

    settings = _settings()
    chosen = load_recipe(recipe, overrides)
    store = ModelStore(settings.store)
    bundle = run_training(Run.create(_read(data, columns), chosen, settings.home), store)
    if store.active() is None:
        store.activate(bundle.version)
        typer.echo(f"published and active: {bundle.path}", err=True)
    else:
        typer.echo(
            f"published: {bundle.path}; version {store.active()} stays active until "
            f"`tessera refresh --version {bundle.version}` has filled the cache",
            err=True,
        )
    typer.echo(bundle.version)


@app.command()
@_reports_errors
def evaluate(
    data: DataFolder,
    version: Version = None,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    beam: Annotated[int, typer.Option(min=20, max=1000, help="Beams of the constrained decode.")] = 50,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Recall and NDCG over all items, beside SASRec of the same run and popularity; seen items kept and excluded."""
    if split not in ("test", "valid"):
        raise typer.BadParameter("test or valid", param_hint="--split")
    _quiet_libraries()
    from model_store.decoders.torch_decoder import TorchDecoder
    from offline.evaluate import evaluate as run_evaluation

    bundle = _open(_settings(), version)
    dataset = _read(data, columns)
    result = run_evaluation(bundle, TorchDecoder.from_bundle(bundle), dataset, split, beam)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(
        f"{result.dataset}, {result.split} split, {result.users} users, version {result.version}, all items ranked"
    )
    for protocol, systems in result.protocols.items():
        typer.echo({"all": "\nseen items kept", "unseen": "\nseen items excluded"}[protocol])
        names = list(next(iter(systems.values())))
        typer.echo(f"  {'':10}" + "".join(f"{name:>11}" for name in names))
        for system, metrics in systems.items():
            typer.echo(f"  {system:10}" + "".join(f"{metrics[name]:11.4f}" for name in names))


@app.command()
@_reports_errors
def refresh(
    data: Annotated[Path | None, typer.Option(help="Import this folder's histories first.")] = None,
    version: Version = None,
    users: Annotated[Path | None, typer.Option(help="Only the users of this file, one id a line.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only users with news, or without an entry.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on behind a refresh that was stopped.")] = False,
    ray: Annotated[str | None, typer.Option(help="Ray cluster to run on.")] = None,
    k: Annotated[int, typer.Option(min=1, max=1000, help="Items kept for each user.")] = 20,
    beam: Annotated[int, typer.Option(min=1, max=1000, help="Beams of the constrained decode.")] = 50,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Decode users' top items into Redis, then serve this version."""
    if ray is not None:
        raise TesseraError("--ray: refreshing on a Ray cluster is not built yet; run without it on one machine")
    _quiet_libraries()
    from model_store.bundle import ModelStore
    from model_store.cache_schema import Keys
    from model_store.decoders.torch_decoder import TorchDecoder
    from offline.redis_connection import connect
    from offline.refresh_cache import (
        CacheRefresh,
        RefreshConfig,
        import_histories,
        read_user_ids,
        stale_users,
        users_with_history,
    )

    settings = _settings()
    bundle = _open(settings, version)
    config = RefreshConfig(
        k=k,
        beam_width=max(beam, k),
        entry_ttl_s=settings.entry_ttl_s,
        history_length=settings.history_length,
        history_ttl_s=settings.history_ttl_s,
    )
    keys = Keys(settings.namespace)
    redis = connect(_redis_url(settings))
    chosen = import_histories(redis, keys, _read(data, columns), config) if data else users_with_history(redis, keys)
    if users is not None:
        chosen = read_user_ids(users)
    if stale:
        chosen = stale_users(redis, keys, bundle.version, chosen)
    elif not chosen:
        raise TesseraError("refresh: no user has a history in Redis; import some with --data DIR")
    job = CacheRefresh(redis, keys, bundle, TorchDecoder.from_bundle(bundle), config)
    summary = job.run(chosen, resume=resume)
    # Some users' entries are no reason to serve another version to all of them.
    if users is None and not stale:
        job.switch()
        ModelStore(settings.store).activate(bundle.version)
    if as_json:
        typer.echo(json.dumps(vars(summary)))
        return
    typer.echo(
        f"{summary.version}: {summary.users} users, top {summary.k}, {summary.seconds:.1f} s "
        f"({summary.users_per_second:.0f} users/s), {summary.bytes_per_user:.0f} bytes a user, "
        f"{summary.skipped} without a known item"
    )


@app.command()
@_reports_errors
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 1,
    decoder: Annotated[
        str | None, typer.Option(help="embedded, none, http://host:port or unix:///path; TESSERA_DECODER_ADDRESS.")
    ] = None,
) -> None:
    """Answer recommendations over HTTP."""
    from app.decoder.child import DecoderChild
    from app.decoder.settings import decoder_settings
    from app.main import serve as run_server

    settings = _settings()
    chosen = decoder or settings.decoder_address or _EMBEDDED
    if chosen == _EMBEDDED:
        with DecoderChild(decoder_settings(), settings.home) as child:
            run_server(settings.model_copy(update={"decoder_address": child.address}), host, port, workers)
    else:
        address = None if chosen == "none" else chosen
        run_server(settings.model_copy(update={"decoder_address": address}), host, port, workers)


@app.command()
@_reports_errors
def decoder(
    address: Annotated[str | None, typer.Option(help="Where to listen: http://host:port or unix:///path.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, torch or vllm.")] = None,
) -> None:
    """Run the decoder process: the language model behind live answers."""
    _quiet_libraries()
    from app.decoder.process import run_decoder
    from app.decoder.settings import decoder_settings

    chosen = {"listen": address, "engine": engine}
    run_decoder(decoder_settings(**{name: value for name, value in chosen.items() if value is not None}))


@models.command("list")
@_reports_errors
def models_list() -> None:
    """Versions in the store, oldest first; the active one is marked."""
    from model_store.bundle import ModelStore

    store = ModelStore(_settings().store)
    active = store.active()
    for version in store.versions():
        typer.echo(f"{'*' if version == active else ' '} {version}")


@models.command("show")
@_reports_errors
def models_show(version: Annotated[str | None, typer.Argument()] = None) -> None:
    """The manifest of a version (the active one by default), as JSON."""
    typer.echo(_open(_settings(), version).manifest.model_dump_json(indent=2))


@models.command("verify")
@_reports_errors
def models_verify(version: Annotated[str | None, typer.Argument()] = None) -> None:
    """Compare every file of a version with its manifest."""
    bundle = _open(_settings(), version)
    typer.echo(f"{bundle.version}: {len(bundle.manifest.files)} files, all as published")


@models.command("activate")
@_reports_errors
def models_activate(version: str) -> None:
    """Serve this version: running services follow within a second."""
    _announce(lambda store: store.activate(version) or version)


@models.command("rollback")
@_reports_errors
def models_rollback() -> None:
    """Serve the version that was active before."""
    _announce(lambda store: store.rollback())


@models.command("prune")
@_reports_errors
def models_prune(keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep.")] = 3) -> None:
    """Delete old versions; the active and the previous one always stay."""
    from model_store.bundle import ModelStore

    for version in ModelStore(_settings().store).prune(keep):
        typer.echo(f"deleted {version}")


def _announce(switch: Callable[[Any], str]) -> None:
    from model_store.bundle import ModelStore
    from model_store.cache_schema import Keys
    from offline.redis_connection import connect

    settings = _settings()
    # Redis first: a version that running services cannot follow must not become the one they restart with.
    redis = connect(_redis_url(settings))
    version = switch(ModelStore(settings.store))
    redis.set(Keys(settings.namespace).active, version)
    typer.echo(version)


@events.command("import")
@_reports_errors
def events_import(
    file: Annotated[Path, typer.Argument(help="Folder with interactions, in any format that train reads.")],
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Bring histories in Redis up to those of a data folder."""
    from model_store.cache_schema import Keys
    from offline.redis_connection import connect
    from offline.refresh_cache import RefreshConfig, import_histories

    settings = _settings()
    redis = connect(_redis_url(settings))
    config = RefreshConfig(history_length=settings.history_length, history_ttl_s=settings.history_ttl_s)
    users = import_histories(redis, Keys(settings.namespace), _read(file, columns), config)
    typer.echo(json.dumps({"users": len(users)}) if as_json else f"{len(users)} users")


@app.command()
@_reports_errors
def demo(
    users: Annotated[int, typer.Option(min=50)] = 2000,
    items: Annotated[int, typer.Option(min=50)] = 800,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving/--exit", help="Stay up, or stop after the tour.")
    ] = True,
) -> None:
    """A generated catalogue, end to end: train, publish, refresh, serve; prints addresses to try."""
    from app.demo import run_demo

    run_demo(_settings(), users=users, items=items, port=port, keep_serving=keep_serving)


def _quiet_libraries() -> None:
    """Keep the progress bars and hints of libraries out of ours, unless their own variables ask for them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Run the command line."""
    app(prog_name="tessera")


if __name__ == "__main__":
    main()
