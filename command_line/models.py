"""`tessera models`: published versions."""

from typing import Annotated

import typer

from command_line.common import (
    has_entries,
    open_bundle,
    read_settings,
    reports_errors,
    serve_version,
)

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


def _serve(version: str | None) -> None:
    settings = read_settings()
    served = serve_version(settings, version)
    typer.echo(served)
    if not has_entries(settings, served):
        typer.echo(
            f"note: no list of {served} is cached; users are decoded live until `tessera refresh` fills it",
            err=True,
        )
