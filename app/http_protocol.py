"""HTTP/1.1 on a connection, by uvicorn and httptools, with the bounds these do not have.

A head (request line and headers) has a largest size, a largest number of headers and a time to arrive; an answer has a
time to be taken; what is not HTTP is answered by a problem too.

To an application it offers, as the ASGI extension `WHOLE_ANSWER`, to send an answer in one piece.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.problems import problem_response
from app.security_headers import SECURITY_HEADERS

MAX_HEAD_BYTES = 1 << 16
MAX_HEADERS = 100
WHOLE_ANSWER = "tessera.whole_answer"
"""Of an ASGI scope's extensions: a function that takes an answer's header lines, each with its line end, and its body,
and sends them with status 200. The lines must be valid, with a content-length and without `connection`. It sends
nothing and returns False where the answer has to go through `send`."""


class _HeadTooLarge(Exception):
    """Of use only to end the parser's work."""


class HttpProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        head_timeout_s: how long a head may take, from the first byte or the opening of the connection.
        write_timeout_s: how long a client may leave more than a buffer full of answers unread.
    """

    head_timeout_s = 10.0
    write_timeout_s = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._too_large = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, at once if the client has not even read its answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head are counted."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not self._in_head or not self._head_bytes or self.transport.is_closing():
            return
        # Part of a head; a whole one, the usual case, needs no timer.
        if self._head_bytes > MAX_HEAD_BYTES:
            self._too_large = True
            self.send_400_response("")
        elif self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Check a whole head and begin to answer."""
        self._in_head = False
        self._stop_timer()
        if len(self.headers) > MAX_HEADERS or (
            # The bytes that came may include some of the body.
            self._head_bytes > MAX_HEAD_BYTES
            and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES
        ):
            self._too_large = True
            raise _HeadTooLarge
        super().on_headers_complete()
        # The application begins after this, and `self.cycle` may be that of the next request when it answers.
        answer_whole: Any = partial(self._answer_whole, self.cycle)
        self.scope["extensions"] = {WHOLE_ANSWER: answer_whole}

    def on_message_complete(self) -> None:
        """The next bytes are those of another head."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, or is too large to be read, and close."""
        if self._too_large:
            answer = problem_response(
                431,
                "head-too-large",
                "Request head too large",
                f"Send at most {MAX_HEADERS} headers, and {MAX_HEAD_BYTES} bytes of address and headers.",
                request_id=None,
            )
        else:
            answer = problem_response(400, "bad-request", "Bad request", "This is not HTTP/1.1.", request_id=None)
        lines = [STATUS_LINE[answer.status_code]]
        for name, value in (*answer.raw_headers, *SECURITY_HEADERS, (b"connection", b"close")):
            lines += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*lines, b"\r\n", bytes(answer.body)]))
        self.transport.close()

    def _answer_whole(self, cycle: RequestResponseCycle, head: bytes, body: bytes) -> bool:
        if cycle.response_started or cycle.disconnected or not cycle.keep_alive or self.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        self.transport.write(b"%b%b\r\n%b" % (_first_lines(self.server_state.default_headers), head, body))
        cycle.on_response()
        return True

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_late)

    def _head_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class _FirstLines:
    """The status line and the server's own headers, of which the date changes once a second: as a new list."""

    def __init__(self) -> None:
        self._headers: Sequence[tuple[bytes, bytes]] | None = None
        self._lines = b""

    def __call__(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._headers = headers
            self._lines = STATUS_LINE[200] + header_lines(headers)
        return self._lines


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent, each with its line end."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_first_lines = _FirstLines()
