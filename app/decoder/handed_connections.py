"""An HTTP server that does not listen: it serves connections that were accepted elsewhere."""

import asyncio
import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SHUTDOWN_S = 5
# A connection that stays open stays where it is. Now and then one is closed, so that its next request may go elsewhere.
_RESPONSES_TO_A_CLOSE = 32
_CLOSING_STATUSES = (429, 503)


def server_config(app: ASGIApp) -> uvicorn.Config:
    """How every decoder process serves, whoever accepts its connections."""
    return uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_SHUTDOWN_S
    )


class HandedConnections(uvicorn.Server):
    """Serves an application to connections handed to it; run it by `run(sockets=[])`."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(server_config(app))
        self._adopting: set[asyncio.Task[Any]] = set()

    def adopt(self, connection: socket.socket) -> None:
        """Serve a connection until it is closed. Must be called in the server's loop."""
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._adopt(connection))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def turn_away(self) -> None:
        """Close every connection as soon as it has its answer; at once where none is due."""
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            # The client has left already.
            connection.close()

    def _protocol(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class ClosesConnections:
    """Middleware that asks clients to open new connections.

    After every 32nd answer, and after those that say another replica might do better: 429 and 503.
    """

    def __init__(self, app: ASGIApp, every: int = _RESPONSES_TO_A_CLOSE) -> None:
        self._app = app
        self._every = every
        self._answered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered += 1
                if self._answered % self._every == 0 or message["status"] in _CLOSING_STATUSES:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_and_close if scope["type"] == "http" else send)
