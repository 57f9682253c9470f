"""Which version is served, and the change to another without stopping.

The version in Redis (`{ns}:active`) wins, because all machines see it; without one, or without Redis at the start, it
is the store's ACTIVE. While Redis is away nothing changes.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.served_model import ServedModel
from app.settings import Settings
from app.structured_logging import FIELDS
from app.telemetry import Telemetry
from model_store.bundle import ModelStore
from model_store.errors import BundleNotFound, TesseraError

_RETRY_UNUSABLE_S = 30.0

_logger = logging.getLogger(__name__)


async def _nothing(model: ServedModel) -> None:
    pass


class ActiveVersion:
    """Holds the served model; `follow` keeps it up to date.

    Args:
        store: where versions are published.
        cache: says which is served.
        settings: how often to look.
        telemetry: counts switches.
        on_opened: awaited with a model before anything is answered with it.
    """

    def __init__(
        self,
        store: ModelStore,
        cache: RecommendationCache,
        settings: Settings,
        telemetry: Telemetry,
        *,
        on_opened: Callable[[ServedModel], Awaitable[None]] = _nothing,
    ) -> None:
        self._store = store
        self._cache = cache
        self._telemetry = telemetry
        self._poll_s = settings.active_poll_ms / 1000
        self._filter_cache_bytes = settings.filter_cache_mb << 20
        self._served: ServedModel | None = None
        self._unusable: dict[str, float] = {}
        self._look = asyncio.Event()
        self._on_opened = on_opened

    @property
    def served(self) -> ServedModel:
        """The model to answer with. Take it once a request; it may be another the next time."""
        assert self._served is not None, "start() was not awaited"
        return self._served

    async def start(self) -> None:
        """Open the version to begin with.

        Raises:
            BundleNotFound: nothing is published and active.
            TesseraError: what is active cannot be opened.
        """
        try:
            version = await self._cache.active_version()
        except CacheUnavailable:
            version = None
        if version is not None:
            try:
                self._served = await self._open(version)
                return
            except BundleNotFound:
                # Activated, but its files have not reached this machine; `follow` takes it up when they have.
                _logger.warning("active version is not in the store", extra={FIELDS: {"version": version}})
        active = await asyncio.to_thread(self._store.active)
        if active is None:
            raise BundleNotFound(
                f"{self._store.root}: no active version; train one, or `tessera models activate VERSION`"
            )
        self._served = await self._open(active)

    async def follow(self) -> None:
        """Watch for another version until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Change to the active version if it is another one and can be opened; keep the present one otherwise."""
        try:
            version = await self._cache.active_version() or await asyncio.to_thread(self._store.active)
        except CacheUnavailable:
            return
        except TesseraError as error:
            _logger.error("cannot tell the active version", extra={FIELDS: {"reason": str(error)}})
            return
        if version is None or version == self.served.version or self._unusable.get(version, 0) > time.monotonic():
            return
        try:
            model = await self._open(version)
        except TesseraError as error:
            self._unusable = {version: time.monotonic() + _RETRY_UNUSABLE_S}
            self._telemetry.model_swaps.labels("failed").inc()
            _logger.error("cannot serve version", extra={FIELDS: {"version": version, "reason": str(error)}})
            return
        await model.prepare()
        self._served = model
        self._telemetry.model_swaps.labels("done").inc()
        _logger.info("serving version", extra={FIELDS: {"version": version}})

    def noticed(self, version: str | None) -> None:
        """Take note of a version some request read in passing; look at once if it is another than the served one."""
        if version is not None and self._served is not None and version != self._served.version:
            self._look.set()

    async def _open(self, version: str) -> ServedModel:
        model = await asyncio.to_thread(
            ServedModel.open, self._store, version, filter_cache_bytes=self._filter_cache_bytes
        )
        await self._on_opened(model)
        return model
