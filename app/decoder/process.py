"""The decoder process: the language model behind live answers.

tessera decoder      or      python -m app.decoder.process [--until-stdin-closes]
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from app import structured_logging
from app.decoder.loaded_models import choose_engine
from app.decoder.server import create_decoder_app
from app.decoder.settings import DecoderSettings, decoder_settings
from model_store.errors import TesseraError

UNTIL_STDIN_CLOSES = "--until-stdin-closes"
"""Argument for whoever starts it as a child: end when the parent does, however that ends."""

_SHUTDOWN_S = 5
_PROBE_TIMEOUT_S = 1.0
_BACKLOG = 256


class DecoderAddressTaken(TesseraError):
    """Something listens on the address already, or it cannot be listened on."""


def run_decoder(settings: DecoderSettings) -> None:
    """Serve until a signal ends it.

    Raises:
        DecoderUnusable: the engine wanted is not installed.
        DecoderAddressTaken: another process listens there.
    """
    # Progress bars of libraries have no place in a service's log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    structured_logging.configure(settings.log_level)
    engine = choose_engine(settings.engine)
    os.nice(settings.niceness)
    app = create_decoder_app(settings, engine)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    # After its orderly end uvicorn sends itself the signal again; by default that would skip our own cleaning up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _listening(settings) as listener, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _listening(settings: DecoderSettings) -> Iterator[socket.socket]:
    path = settings.socket_path
    try:
        listener = _listen_tcp(*settings.host_and_port) if path is None else _listen_unix(path)
    except OSError as error:
        raise DecoderAddressTaken(f"{settings.listen}: {error.strerror or error}") from error
    try:
        yield listener
    finally:
        listener.close()
        if path is not None:
            path.unlink(missing_ok=True)


def _listen_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def _listen_unix(path: Path) -> socket.socket:
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_TIMEOUT_S)
            if probe.connect_ex(str(path)) == 0:
                raise DecoderAddressTaken(f"{path}: another decoder listens there")
        # Left behind by one that was killed.
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # For this user only, from its first moment.
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def _end_when_stdin_closes() -> None:
    """Ask for an orderly end when the parent is gone, and end the whole process group if that takes too long."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(2 * _SHUTDOWN_S)
        if os.getpgid(0) == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def main() -> None:
    """Run with the settings of the environment; exit code 1 and a message when it cannot."""
    if UNTIL_STDIN_CLOSES in sys.argv[1:]:
        _end_when_stdin_closes()
    try:
        run_decoder(decoder_settings())
    except TesseraError as error:
        sys.exit(f"tessera decoder: {error}")


if __name__ == "__main__":
    main()
