"""The API's client of the decoder's text encoder."""

import asyncio

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from app.encode_wire import EncodeReply, unpack_vectors
from app.live_decoding import decoder_client
from app.settings import Settings

_CONNECTIONS = 4
# The decoder says itself when a deadline has passed.
_GRACE_S = 0.25
_REASONS = {409: "version", 429: "queue_full", 504: "deadline"}


class TextVectorsUnavailable(Exception):
    """No vectors. `reason` is one of: no_decoder, version (it has no usable encoder), queue_full, deadline, failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TextVectors:
    """Asks the decoder process.

    Args:
        settings: its address, and how long to wait.
    """

    def __init__(self, settings: Settings) -> None:
        address = settings.live_address
        self._client = None if address is None else decoder_client(address, _CONNECTIONS)
        self._deadline_ms = settings.encode_deadline_ms

    async def of(self, version: str, documents: list[str]) -> NDArray[np.float32]:
        """Vectors of texts, by the encoder of a version; float32 [M, X].

        Raises:
            TextVectorsUnavailable: none within the deadline, and why.
        """
        if self._client is None:
            raise TextVectorsUnavailable("no_decoder")
        content = orjson.dumps({"version": version, "documents": documents, "deadline_ms": self._deadline_ms})
        try:
            async with asyncio.timeout(self._deadline_ms / 1000 + _GRACE_S):
                response = await self._client.post("/encode", content=content)
        except TimeoutError:
            raise TextVectorsUnavailable("deadline") from None
        except httpx.HTTPError:
            raise TextVectorsUnavailable("failed") from None
        if response.status_code != httpx.codes.OK:
            raise TextVectorsUnavailable(_REASONS.get(response.status_code, "failed"))
        try:
            reply = EncodeReply.model_validate_json(response.content)
            vectors = unpack_vectors(reply.vectors, reply.size)
        # A ValidationError is a ValueError, as is what base64 raises.
        except ValueError:
            raise TextVectorsUnavailable("failed") from None
        if len(vectors) != len(documents) or reply.version != version:
            raise TextVectorsUnavailable("failed")
        return vectors

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
