"""What a request may take of a worker: length of its address, size of its body and time to send it, a place among those
that are answered at once."""

import asyncio

from starlette.types import Message, Receive, Scope

from app.problems import AddressTooLong, BadAddress, BodyTooLarge, BodyTooSlow, Overloaded
from app.settings import Settings

_UNCOUNTED = ("/health/", "/api/health/")


class RequestLimits:
    """The limits of one worker.

    Args:
        settings: the limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_body = settings.max_body_bytes
        self._max_address = settings.max_address_bytes
        self._max_in_flight = settings.max_in_flight
        self._body_timeout_s = settings.body_timeout_ms / 1000

    def check(self, scope: Scope, in_flight: int) -> None:
        """Look at a request before its body.

        Args:
            scope: of ASGI.
            in_flight: requests that are being answered, this one included.

        Raises:
            Problem: Overloaded, AddressTooLong or BadAddress.
        """
        if in_flight > self._max_in_flight and not scope["path"].startswith(_UNCOUNTED):
            raise Overloaded
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > self._max_address:
            raise AddressTooLong
        if "\n" in scope["path"]:
            raise BadAddress

    async def bounded(self, declared: bytes | None, receive: Receive) -> Receive:
        """A `receive` for a body that is there as a whole.

        Args:
            declared: the length that the request says, None where it comes in chunks.
            receive: of ASGI.

        Raises:
            Problem: BodyTooLarge or BodyTooSlow.
        """
        # The server holds the sender to the length it declared.
        if declared is not None and (not declared.isdigit() or int(declared[:20]) > self._max_body):
            raise BodyTooLarge
        try:
            async with asyncio.timeout(self._body_timeout_s):
                whole = await self._whole(receive)
        except TimeoutError:
            raise BodyTooSlow from None
        waiting: Message | None = whole

        async def replay() -> Message:
            nonlocal waiting
            if waiting is None:
                return await receive()
            message, waiting = waiting, None
            return message

        return replay

    async def _whole(self, receive: Receive) -> Message:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                # The caller has gone.
                return message
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise BodyTooLarge
            if not message.get("more_body", False):
                return {"type": "http.request", "body": bytes(body), "more_body": False}
