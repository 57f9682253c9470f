"""The decoder process: the language model behind live answers.

tessera decoder      or      python -m app.decoder.process [--until-stdin-closes]
"""

import os
import signal
import sys
from contextlib import suppress

import uvicorn

from app import structured_logging
from app.decoder.engines import choose_engine
from app.decoder.handed_connections import server_config
from app.decoder.listening import listening
from app.decoder.parent_watch import end_when_stdin_closes
from app.decoder.replicas import run_replicas
from app.decoder.server import create_decoder_app
from app.decoder.settings import DecoderSettings, decoder_settings
from app.tracing import check_tracing, open_tracing
from model_store.errors import TesseraError

UNTIL_STDIN_CLOSES = "--until-stdin-closes"
"""Argument for whoever starts it as a child: end when the parent does, however that ends."""


def run_decoder(settings: DecoderSettings) -> None:
    """Serve until a signal ends it.

    Raises:
        DecoderUnusable: the engine wanted is not installed.
        DecoderAddressTaken: another process listens there.
        TracingUnusable: traces are asked for and OpenTelemetry is not installed.
    """
    # Progress bars of libraries have no place in a service's log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    structured_logging.configure(settings.log_level)
    check_tracing(settings.traces_endpoint)
    if settings.replicas > 1:
        run_replicas(settings)
        return
    engine = choose_engine(settings.engine)
    os.nice(settings.niceness)
    tracing = open_tracing(settings.traces_endpoint, settings.traces_share, "tessera-decoder")
    app = create_decoder_app(settings, engine, tracing=tracing)
    # After its orderly end uvicorn sends itself the signal again; by default that would skip our own cleaning up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listening(settings) as listener, suppress(KeyboardInterrupt):
        uvicorn.Server(server_config(app)).run(sockets=[listener])


def main() -> None:
    """Run with the settings of the environment; exit code 1 and a message when it cannot."""
    if UNTIL_STDIN_CLOSES in sys.argv[1:]:
        end_when_stdin_closes()
    try:
        run_decoder(decoder_settings())
    except TesseraError as error:
        sys.exit(f"tessera decoder: {error}")


if __name__ == "__main__":
    main()
