"""A decoder process in miniature: the wire format of `app.decode_wire`, scores by a formula in place of a model."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, Response
from numpy.typing import NDArray

from app.decode_wire import DecodeBody, DecodeReply, unpack_mask


class PlainDecoder:
    """Ranks the items it may show by their distance to the number that ends the query, or to the newest of the history.

    Attributes:
        address: where it listens.
        asked: every request, in order of arrival.
        delay_s: how long it thinks.
        status: what it answers in place of items, unless 200.
    """

    def __init__(self, codes_NL: NDArray[np.uint8], socket: Path) -> None:
        self.address = f"unix://{socket}"
        self.asked: list[DecodeBody] = []
        self.delay_s = 0.0
        self.status = 200
        self._codes_NL = codes_NL

    @staticmethod
    def score(item: int, history: list[int], query: str | None = None) -> float:
        near = history[-1] if query is None else int(query.split()[-1])
        return -abs(item - near) - item / 1000

    def best(self, history: list[int], allowed: list[int], query: str | None = None) -> list[int]:
        return sorted(allowed, key=lambda item: -self.score(item, history, query))

    async def decode(self, body: DecodeBody) -> Response:
        self.asked.append(body)
        await asyncio.sleep(self.delay_s)
        if self.status != 200:
            return Response(status_code=self.status)
        mask = None if body.eligible is None else unpack_mask(body.eligible, len(self._codes_NL))
        among = range(len(self._codes_NL)) if body.candidates is None else body.candidates
        allowed = [i for i in among if i not in body.excluded and (mask is None or mask[i])]
        items = self._capped(self.best(body.history, allowed, body.query), body)[: body.n]
        reply = DecodeReply(
            version=body.version,
            generator="torch",
            items=items,
            scores=[self.score(item, body.history, body.query) for item in items],
            decode_ms=1.0,
        )
        return Response(reply.model_dump_json(), media_type="application/json")

    def _capped(self, items: list[int], body: DecodeBody) -> list[int]:
        taken: Counter[bytes] = Counter()
        kept = []
        for item in items:
            prefix = self._codes_NL[item, : body.prefix_levels].tobytes()
            if body.max_per_prefix is None or taken[prefix] < body.max_per_prefix:
                taken[prefix] += 1
                kept.append(item)
        return kept


@contextmanager
def plain_decoder(codes_NL: NDArray[np.uint8], socket: Path) -> Iterator[PlainDecoder]:
    """Run one in a thread, for a catalogue of these codes."""
    decoder = PlainDecoder(codes_NL, socket)
    app = FastAPI()
    app.add_api_route("/decode", decoder.decode, methods=["POST"])
    app.add_api_route("/health/ready", lambda: Response(), methods=["GET"])
    server = uvicorn.Server(uvicorn.Config(app, uds=str(socket), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield decoder
    finally:
        server.should_exit = True
        thread.join()
