"""The API's client of the decoder process: one decode per distinct request, never later than its deadline.

Equal requests that overlap share one decode. A decoder that keeps failing is left alone for a while (circuit breaker),
so a dead one costs a request microseconds, not its deadline.
"""

import asyncio
import hashlib
from dataclasses import dataclass

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from app.circuit_breaker import CircuitBreaker
from app.decode_wire import DecodeReply, pack_mask
from app.structured_logging import REQUEST_ID
from app.tracing import Tracing
from model_store.prefix_trie import EligibleItems

UNIX_SCHEME = "unix://"

_READY_TIMEOUT_S = 1.0
_CONNECT_TIMEOUT_S = 0.5
# The decoder says itself when a deadline has passed. Only one that stays silent for longer counts as failing.
_GRACE_S = 0.25
_REASONS = {409: "version", 429: "queue_full", 504: "deadline"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveRequest:
    """One decode to ask for.

    Attributes:
        version: model version; item indices mean its catalogue.
        history: item indices, oldest first; int32 [H], H >= 1, or with a query H >= 0.
        n: items wanted.
        beam_width: beams kept at each level.
        excluded: item indices this user must not see; int32 [X], any order.
        eligible: the catalogue-wide filter, None when every item may be shown.
        deadline_ms: how long the caller waits.
        query: what the user asks for in words.
        candidates: item indices; int32 [K], any order. Only these are ranked. None for the whole catalogue.
        max_per_prefix: items at most that share the first `prefix_levels` codes of their code; None for any number.
        prefix_levels: how many codes make a prefix.
    """

    version: str
    history: NDArray[np.int32]
    n: int
    beam_width: int
    excluded: NDArray[np.int32]
    eligible: EligibleItems | None
    deadline_ms: int
    query: str | None = None
    candidates: NDArray[np.int32] | None = None
    max_per_prefix: int | None = None
    prefix_levels: int = 1


@dataclass(frozen=True, eq=False)
class LiveAnswer:
    """Decoded items, best first.

    Attributes:
        items: item indices; int32 [K], K <= n.
        scores: natural-log probabilities under constrained decoding; float32 [K].
        generator: the engine that decoded, one of cache_entries.GENERATORS.
        decode_ms: time in the decoder, waiting included.
    """

    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    generator: str
    decode_ms: float


class LiveDecodingUnavailable(Exception):
    """No live answer this time; the next source of the chain answers instead.

    `reason` is one of: no_decoder (none in this deployment), queue_full, deadline, breaker_open (it failed repeatedly
    and is given a pause), version (the decoder cannot open that version), failed.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _Flight:
    """One decode under way and the callers that wait for it."""

    task: asyncio.Task[LiveAnswer]
    waiting: int = 0


class LiveDecoding:
    """Asks the decoder process.

    Args:
        address: `http://host:port` or `unix:///path`; None when the deployment has no decoder.
        breaker: when to stop asking; one with default settings if left out.
        max_in_flight: distinct decodes under way at once; more are refused as queue_full.
        tracing: what the decoder is to continue; None for no traces.
    """

    def __init__(
        self,
        address: str | None,
        *,
        breaker: CircuitBreaker | None = None,
        max_in_flight: int = 64,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._client = None if address is None else decoder_client(address, max_in_flight)
        self._breaker = breaker or CircuitBreaker("decoder")
        self._max_in_flight = max_in_flight
        self._flights: dict[bytes, _Flight] = {}

    @property
    def configured(self) -> bool:
        """Whether this deployment has a decoder at all."""
        return self._client is not None

    @property
    def breaker_open(self) -> bool:
        """Whether the decoder is being left alone after repeated failures."""
        return self._breaker.is_open

    async def decode(self, request: LiveRequest) -> LiveAnswer:
        """Decode, or share the decode of an equal request that is under way.

        Raises:
            LiveDecodingUnavailable: no answer within the deadline, and why.
        """
        if self._client is None:
            raise LiveDecodingUnavailable("no_decoder")
        loop = asyncio.get_running_loop()
        expires = loop.time() + request.deadline_ms / 1000
        content = _content(request)
        key = hashlib.blake2b(content, digest_size=16).digest()
        while True:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._take_off(self._client, key, content, expires - loop.time())
            try:
                return await _join(flight, expires)
            except LiveDecodingUnavailable as error:
                # A shared decode keeps its first caller's deadline; one who came later may have time left for another.
                if leads or error.reason != "deadline" or loop.time() >= expires:
                    raise

    async def ready(self) -> bool:
        """Whether the decoder says that it can decode."""
        if self._client is None:
            return False
        try:
            response = await self._client.get("/health/ready", timeout=_READY_TIMEOUT_S)
        except httpx.TransportError:
            return False
        return response.status_code == httpx.codes.OK

    async def aclose(self) -> None:
        """Give up what is under way and close the connections."""
        flights = [flight.task for flight in self._flights.values()]
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _take_off(self, client: httpx.AsyncClient, key: bytes, content: bytes, left_s: float) -> _Flight:
        if len(self._flights) >= self._max_in_flight:
            raise LiveDecodingUnavailable("queue_full")
        if not self._breaker.allows():
            raise LiveDecodingUnavailable("breaker_open")
        task = asyncio.create_task(self._fly(client, key, content, left_s), name="live-decode")
        # Everyone may have left by the time it fails; that is no reason for asyncio to complain.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        flight = self._flights[key] = _Flight(task)
        return flight

    async def _fly(self, client: httpx.AsyncClient, key: bytes, content: bytes, left_s: float) -> LiveAnswer:
        try:
            return await self._ask(client, content, left_s)
        finally:
            del self._flights[key]

    async def _ask(self, client: httpx.AsyncClient, content: bytes, left_s: float) -> LiveAnswer:
        body = content[:-1] + b',"deadline_ms":%d}' % max(int(left_s * 1000), 1)
        try:
            async with asyncio.timeout(left_s + _GRACE_S):
                response = await client.post("/decode", content=body, headers=self._headers())
        except TimeoutError:
            self._breaker.failed()
            raise LiveDecodingUnavailable("deadline") from None
        except httpx.TransportError as error:
            self._breaker.failed()
            raise LiveDecodingUnavailable("failed") from error
        if response.status_code == httpx.codes.OK:
            return self._read(response.content)
        reason = _REASONS.get(response.status_code, "failed")
        if response.is_server_error and reason == "failed":
            self._breaker.failed()
        else:
            self._breaker.succeeded()
        raise LiveDecodingUnavailable(reason)

    def _headers(self) -> dict[str, str]:
        """What tells the decoder whose work this is. A shared decode is that of its first caller."""
        headers = {} if self._tracing is None else self._tracing.outgoing()
        if (request_id := REQUEST_ID.get()) is not None:
            headers["x-request-id"] = request_id
        return headers

    def _read(self, content: bytes) -> LiveAnswer:
        try:
            reply = DecodeReply.model_validate(orjson.loads(content))
        except (orjson.JSONDecodeError, ValidationError) as error:
            self._breaker.failed()
            raise LiveDecodingUnavailable("failed") from error
        self._breaker.succeeded()
        return LiveAnswer(
            items=np.array(reply.items, dtype=np.int32),
            scores=np.array(reply.scores, dtype=np.float32),
            generator=reply.generator,
            decode_ms=reply.decode_ms,
        )


async def _join(flight: _Flight, expires: float) -> LiveAnswer:
    flight.waiting += 1
    try:
        async with asyncio.timeout_at(expires):
            return await asyncio.shield(flight.task)
    except TimeoutError:
        # The decode itself goes on for its grace period: whether it answers decides about the breaker.
        raise LiveDecodingUnavailable("deadline") from None
    except asyncio.CancelledError:
        if flight.task.cancelled():
            raise LiveDecodingUnavailable("failed") from None
        if flight.waiting == 1:
            # The last one who wanted it has gone; closing the connection tells the decoder.
            flight.task.cancel()
        raise
    finally:
        flight.waiting -= 1


def _content(request: LiveRequest) -> bytes:
    """The request's JSON without its deadline: equal requests give equal bytes."""
    return orjson.dumps(
        {
            "version": request.version,
            "history": np.ascontiguousarray(request.history),
            "n": request.n,
            "beam_width": request.beam_width,
            "excluded": np.unique(request.excluded),
            "eligible": None if request.eligible is None else pack_mask(request.eligible.mask),
            "query": request.query,
            "candidates": None if request.candidates is None else np.unique(request.candidates),
            "max_per_prefix": request.max_per_prefix,
            "prefix_levels": request.prefix_levels,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def decoder_client(address: str, max_connections: int) -> httpx.AsyncClient:
    """A client of the decoder; callers bound what they wait for beyond the connection."""
    # Room for a health check while every decode is busy. Each decode under way has a connection of its own, and it is
    # connections that several replicas behind one address are dealt.
    limits = httpx.Limits(max_connections=max_connections + 2, max_keepalive_connections=max_connections + 2)
    socket_path = address.removeprefix(UNIX_SCHEME) if address.startswith(UNIX_SCHEME) else None
    return httpx.AsyncClient(
        base_url="http://decoder" if socket_path else address,
        transport=httpx.AsyncHTTPTransport(uds=socket_path, limits=limits),
        timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        trust_env=False,
        headers={"content-type": "application/json"},
    )
