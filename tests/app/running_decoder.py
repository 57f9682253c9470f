"""A decoder application served for real on a Unix socket, in the test's own event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from app.decoder.server import DecodeService, create_decoder_app
from app.decoder.settings import DecoderSettings
from app.settings import Settings

READY_TIMEOUT_S = 60


class RunningDecoder:
    """What `running_decoder` serves.

    Attributes:
        address: for `LiveDecoding`.
        client: speaks to it directly.
        service: its inside.
    """

    def __init__(self, address: str, client: httpx.AsyncClient, service: DecodeService) -> None:
        self.address = address
        self.client = client
        self.service = service

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the engine's one thread occupied, as a long decode would."""
        release = threading.Event()
        self.service._thread.submit(release.wait, 60)
        try:
            yield
        finally:
            release.set()

    async def metric(self, name: str, **labels: Any) -> float:
        """The value of one metric, 0 while it has none."""
        text = (await self.client.get("/metrics")).text
        wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.split(" ")[0] == wanted)

    async def waits(self, count: int) -> None:
        """Return once that many decodes wait in the queue."""
        async with asyncio.timeout(10):
            while await self.metric("tessera_decoder_queue_depth") != count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_decoder(settings: DecoderSettings, socket: Path) -> AsyncIterator[RunningDecoder]:
    """Serve until the block ends. It may not be ready yet."""
    app = create_decoder_app(settings, "torch")
    server = uvicorn.Server(
        uvicorn.Config(app, uds=str(socket), log_config=None, access_log=False, timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server._serve())
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://decoder", timeout=30) as client:
            yield RunningDecoder(f"unix://{socket}", client, app.state.service)
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def ready_decoder(store: Path, socket: Path) -> AsyncIterator[RunningDecoder]:
    """Serve a store's active version, loaded, until the block ends."""
    settings = DecoderSettings(store=store, batch=4, beam_width=10, active_poll_ms=20, retry_unusable_s=0)
    async with running_decoder(settings, socket) as decoder:
        await until_ready(decoder)
        yield decoder


def settings_beside(decoder: RunningDecoder, store: Path, home: Path, **others: Any) -> Settings:
    """Of an application that asks this decoder, with patience, and follows versions at once."""
    return Settings(
        store=store,
        home=home,
        redis_cooldown_ms=50,
        redis_timeout_ms=1000,
        active_poll_ms=20,
        decoder_address=decoder.address,
        live_deadline_ms=20_000,
        encode_deadline_ms=60_000,
        beam_width=10,
        **others,
    )


async def until_ready(decoder: RunningDecoder) -> None:
    """Wait for the first loaded version."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while (await decoder.client.get("/health/ready")).status_code != httpx.codes.OK:
            await asyncio.sleep(0.02)
