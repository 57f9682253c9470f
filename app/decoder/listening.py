"""The socket a decoder listens on: TCP, or a Unix socket for this user only."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.decoder.settings import DecoderSettings
from model_store.errors import TesseraError

_PROBE_TIMEOUT_S = 1.0
_BACKLOG = 256


class DecoderAddressTaken(TesseraError):
    """Something listens on the address already, or it cannot be listened on."""


@contextmanager
def listening(settings: DecoderSettings) -> Iterator[socket.socket]:
    """Listen until the block ends; a Unix socket's file goes with it.

    Raises:
        DecoderAddressTaken: another process listens there.
    """
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
