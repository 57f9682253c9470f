"""One of several decoder processes behind one address (see `replicas`).

python -m app.decoder.replica CHANNEL NUMBER STARTS

Connections come through the channel, a Unix socket inherited as a file descriptor; how the replica is goes back through
it, as lines of JSON. It ends when its standard input is closed.
"""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

import orjson
from fastapi import FastAPI
from prometheus_client import values
from pydantic import BaseModel

from app import structured_logging
from app.decoder.engines import choose_engine
from app.decoder.handed_connections import ClosesConnections, HandedConnections
from app.decoder.metrics import DecoderMetrics
from app.decoder.parent_watch import end_when_stdin_closes
from app.decoder.server import DecodeService, create_decoder_app
from app.decoder.settings import decoder_settings
from app.tracing import open_tracing
from model_store.errors import TesseraError


class ReplicaState(BaseModel):
    """What a replica says of itself.

    Attributes:
        ready: whether it should get connections.
        versions: in its memory.
        troubles: why versions cannot be decoded.
    """

    ready: bool = False
    versions: list[str] = []
    troubles: list[str] = []


def replica_name(number: int) -> str:
    """What the files of its metrics are called by."""
    return f"replica{number}"


class Replica(HandedConnections):
    """Serves the decoder application to the connections that come through a channel.

    Args:
        app: the decoder.
        number: which of the replicas this is.
        channel: to the parent.
        metrics: what is counted.
    """

    def __init__(self, app: FastAPI, number: int, channel: socket.socket, metrics: DecoderMetrics) -> None:
        super().__init__(ClosesConnections(app))
        self._app = app
        self._channel = channel
        self._metrics = metrics
        self._requests = metrics.replica_requests.labels(number)
        self._counted = 0
        self._said = ReplicaState()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._take)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second by uvicorn."""
        self._tell()
        self._requests.inc(self.server_state.total_requests - self._counted)
        self._counted = self.server_state.total_requests
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        asyncio.get_running_loop().remove_reader(self._channel)
        # Closed first, so that nobody sends more connections here.
        self._channel.close()
        await super().shutdown(sockets)

    def _take(self) -> None:
        try:
            sent, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            self.adopt(socket.socket(fileno=descriptor))
        if not sent:
            # The parent has gone. Whoever watches the standard input does the rest.
            asyncio.get_running_loop().remove_reader(self._channel)

    def _tell(self) -> None:
        service: DecodeService = self._app.state.service
        now = ReplicaState(ready=service.ready, versions=service.models.versions, troubles=service.models.troubles)
        if now == self._said:
            return
        if self._said.ready and not now.ready:
            # Others may be ready; here everyone would be refused.
            self.turn_away()
        # Where the parent cannot be told now, the next tick tries again.
        with suppress(OSError):
            self._channel.send(orjson.dumps(now.model_dump()) + b"\n")
            self._said = now
            # After the parent, so that whoever reads the metric can rely on where requests go.
            self._metrics.ready.set(now.ready)


def main() -> None:
    """Run with the settings of the environment; exit code 1 and a message when it cannot."""
    descriptor, number, starts = (int(word) for word in sys.argv[1:4])
    end_when_stdin_closes()
    # A replica that takes the place of a dead one goes on in its files, so that they do not grow in number.
    values.ValueClass = values.MultiProcessValue(lambda: replica_name(number))  # type: ignore[no-untyped-call]
    metrics = DecoderMetrics()
    if starts > 1:
        metrics.replica_restarts.inc()
    try:
        settings = decoder_settings()
        structured_logging.configure(settings.log_level)
        os.nice(settings.niceness)
        tracing = open_tracing(settings.traces_endpoint, settings.traces_share, "tessera-decoder")
        app = create_decoder_app(settings, choose_engine(settings.engine), metrics, tracing)
    except TesseraError as error:
        sys.exit(f"tessera decoder: {error}")
    replica = Replica(app, number, socket.socket(fileno=descriptor), metrics)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        replica.run(sockets=[])


if __name__ == "__main__":
    main()
