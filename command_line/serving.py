"""`tessera serve`, `tessera decoder` and `tessera demo`."""

import gc
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from command_line.common import quiet_libraries, read_settings, reports_errors

commands = typer.Typer()

_EMBEDDED = "embedded"


@commands.command()
@reports_errors
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 1,
    decoder: Annotated[
        str | None, typer.Option(help="embedded, none, http://host:port or unix:///path; TESSERA_DECODER_ADDRESS.")
    ] = None,
    jobs: Annotated[
        Literal["embedded", "none"] | None,
        typer.Option(help="embedded: do refreshes asked for over HTTP in a child, if this machine can. TESSERA_JOBS."),
    ] = None,
) -> None:
    """Answer recommendations over HTTP."""
    # What a start makes, it keeps; the service turns it on again when it is ready.
    gc.disable()
    from app.decoder.child import DecoderChild
    from app.decoder.settings import decoder_settings
    from app.main import serve as run_server
    from app.worker_child import model_extra_is_installed, worker_child

    settings = read_settings()
    with ExitStack() as children:
        if (jobs or settings.jobs) == _EMBEDDED and model_extra_is_installed():
            child = worker_child(settings)
            child.start()
            children.callback(child.stop)
        chosen = decoder or settings.decoder_address or _EMBEDDED
        address = None if chosen == "none" else chosen
        if chosen == _EMBEDDED:
            address = children.enter_context(DecoderChild(decoder_settings(), settings.home)).address
        run_server(settings.model_copy(update={"decoder_address": address}), host, port, workers)


@commands.command()
@reports_errors
def decoder(
    address: Annotated[str | None, typer.Option(help="Where to listen: http://host:port or unix:///path.")] = None,
    engine: Annotated[str | None, typer.Option(help="auto, torch or vllm.")] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Processes behind the address, each with its own copy of the model.")
    ] = None,
) -> None:
    """Run the decoder process: the language model behind live answers."""
    quiet_libraries()
    from app.decoder.process import run_decoder
    from app.decoder.settings import decoder_settings

    chosen = {"listen": address, "engine": engine, "replicas": replicas}
    run_decoder(decoder_settings(**{name: value for name, value in chosen.items() if value is not None}))


@commands.command()
@reports_errors
def demo(
    users: Annotated[int, typer.Option(min=50)] = 2000,
    items: Annotated[int, typer.Option(min=50)] = 800,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving/--exit", help="Stay up, or stop after the tour.")
    ] = True,
    write_data: Annotated[
        Path | None, typer.Option(help="Only write the catalogue here, as interactions.csv and items.csv.")
    ] = None,
) -> None:
    """A generated catalogue, end to end: train, publish, refresh, serve; prints addresses to try."""
    if write_data is not None:
        from offline.generate_catalogue import generate

        generate(write_data, users=users, items=items, seed=0, as_csv=True)
        typer.echo(f"{write_data}: interactions.csv of {users} users, items.csv of {items} items")
        return
    from app.demo import run_demo

    run_demo(read_settings(), users=users, items=items, port=port, keep_serving=keep_serving)
