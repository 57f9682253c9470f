"""The API's client of the decoder's rankers."""

import asyncio

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from app.circuit_breaker import CircuitBreaker
from app.live_decoding import LiveDecodingUnavailable, decoder_client
from app.rank_wire import RankerReply
from app.settings import Settings
from app.structured_logging import REQUEST_ID

_CONNECTIONS = 16
# The decoder says itself when a deadline has passed.
_GRACE_S = 0.25
_REASONS = {409: "version", 429: "queue_full", 504: "deadline"}


class LiveRanking:
    """Asks the decoder process.

    Args:
        settings: its address, and how long to wait.
    """

    def __init__(self, settings: Settings) -> None:
        address = settings.live_address
        self._client = None if address is None else decoder_client(address, _CONNECTIONS)
        self._deadline_ms = settings.rank_deadline_ms
        self._breaker = CircuitBreaker("ranker")
        self._under_way = 0

    async def scores(
        self, version: str, history: list[int], candidates: list[int], user_key: int | None
    ) -> tuple[str, NDArray[np.float32]]:
        """The name of the version's ranker, and the score of every candidate; float32 [K].

        Raises:
            LiveDecodingUnavailable: none within the deadline, and why.
        """
        if self._client is None:
            raise LiveDecodingUnavailable("no_decoder")
        if self._under_way >= _CONNECTIONS:
            raise LiveDecodingUnavailable("queue_full")
        if not self._breaker.allows():
            raise LiveDecodingUnavailable("breaker_open")
        body = {
            "version": version,
            "history": history,
            "candidates": candidates,
            "user_key": user_key,
            "deadline_ms": self._deadline_ms,
        }
        self._under_way += 1
        try:
            return self._read(await self._asked(self._client, orjson.dumps(body)), version, len(candidates))
        finally:
            self._under_way -= 1

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _asked(self, client: httpx.AsyncClient, content: bytes) -> httpx.Response:
        request_id = REQUEST_ID.get()
        headers = {} if request_id is None else {"x-request-id": request_id}
        try:
            async with asyncio.timeout(self._deadline_ms / 1000 + _GRACE_S):
                return await client.post("/rank", content=content, headers=headers)
        except TimeoutError:
            self._breaker.failed()
            raise LiveDecodingUnavailable("deadline") from None
        except httpx.HTTPError as error:
            self._breaker.failed()
            raise LiveDecodingUnavailable("failed") from error

    def _read(self, response: httpx.Response, version: str, count: int) -> tuple[str, NDArray[np.float32]]:
        if response.status_code != httpx.codes.OK:
            reason = _REASONS.get(response.status_code, "failed")
            if reason == "failed":
                self._breaker.failed()
            else:
                self._breaker.succeeded()
            raise LiveDecodingUnavailable(reason)
        try:
            reply = RankerReply.model_validate_json(response.content)
        # A ValidationError is a ValueError.
        except ValueError:
            self._breaker.failed()
            raise LiveDecodingUnavailable("failed") from None
        self._breaker.succeeded()
        if reply.version != version or len(reply.scores) != count:
            raise LiveDecodingUnavailable("failed")
        return reply.ranker, np.array(reply.scores, dtype=np.float32)
