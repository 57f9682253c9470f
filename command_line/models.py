"""`tessera models`: published versions."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from command_line.common import (
    AsJson,
    has_entries,
    open_bundle,
    read_settings,
    redis_url,
    reports_errors,
    serve_version,
)

if TYPE_CHECKING:
    from offline.refresh.compare import Comparison

models = typer.Typer(help="Published model versions.", no_args_is_help=True)


@models.command("list")
@reports_errors
def models_list() -> None:
    """Versions in the store, oldest first; the active one is marked."""
    from model_store.bundle import ModelStore

    store = ModelStore(read_settings().store)
    active = store.active()
    for version in store.versions():
        typer.echo(f"{'*' if version == active else ' '} {version}")


@models.command("show")
@reports_errors
def models_show(version: Annotated[str | None, typer.Argument()] = None) -> None:
    """The manifest of a version (the active one by default), as JSON."""
    typer.echo(open_bundle(read_settings(), version).manifest.model_dump_json(indent=2))


@models.command("verify")
@reports_errors
def models_verify(version: Annotated[str | None, typer.Argument()] = None) -> None:
    """Compare every file of a version with its manifest."""
    bundle = open_bundle(read_settings(), version)
    typer.echo(f"{bundle.version}: {len(bundle.manifest.files)} files, all as published")


@models.command("activate")
@reports_errors
def models_activate(version: str) -> None:
    """Serve this version: running services follow within a second."""
    _serve(version)


@models.command("rollback")
@reports_errors
def models_rollback() -> None:
    """Serve the version that was active before."""
    _serve(None)


@models.command("prune")
@reports_errors
def models_prune(keep: Annotated[int, typer.Option(min=1, help="Newest versions to keep.")] = 3) -> None:
    """Delete old versions; the active and the previous one always stay."""
    from model_store.bundle import ModelStore

    for version in ModelStore(read_settings().store).prune(keep):
        typer.echo(f"deleted {version}")


@models.command("compare")
@reports_errors
def models_compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A version with cached entries.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    users: Annotated[int | None, typer.Option(min=1, help="Look at about so many users of A; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the cached lists of two versions, user by user."""
    import dataclasses

    from model_store.bundle import MODEL_FOLDERS, ModelStore
    from model_store.cache_keys import Keys
    from offline.redis_connection import connect, told
    from offline.refresh.compare import compare

    settings = read_settings()
    store = ModelStore(settings.store)
    bundles = [store.open(version, skip=MODEL_FOLDERS) for version in (first, second)]
    with told("models compare"):
        found = compare(connect(redis_url(settings)), Keys(settings.namespace), *bundles, users=users)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found)))
    else:
        _print_comparison(found)


def _print_comparison(found: "Comparison") -> None:
    width = max(12, *(len(version) for version in found.versions))

    def row(name: str, cells: "tuple[object, object]") -> None:
        typer.echo(f"  {name:26}" + "".join(f"{cell!s:>{width + 2}}" for cell in cells))

    about = "about " if found.sampled else ""
    row("", found.versions)
    row("users with an entry", found.users)
    if found.coverage is not None:
        row("of users with a history", (f"{found.coverage[0]:.1%}", f"{found.coverage[1]:.1%}"))
    row("in this version alone", (f"{about}{found.only_in[0]}", f"{about}{found.only_in[1]}"))
    if found.overlap_at_10 is None or found.same_first_item is None:
        typer.echo("no user has an entry in both")
        return
    typer.echo(
        f"{found.compared} users compared: {found.overlap_at_10:.1%} of the first ten items in common, "
        f"the same first item for {found.same_first_item:.1%}"
    )
    if found.rank_correlation is not None:
        typer.echo(
            f"rank correlation of the common items {found.rank_correlation:.3f} "
            f"({found.rank_correlation_users} users with two or more)"
        )


def _serve(version: str | None) -> None:
    settings = read_settings()
    served = serve_version(settings, version)
    typer.echo(served)
    if not has_entries(settings, served):
        typer.echo(
            f"note: no list of {served} is cached; users are decoded live until `tessera refresh` fills it",
            err=True,
        )
