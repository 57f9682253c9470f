"""Vectors of item texts, for items that get a code while the service runs.

The encoder is loaded when the first text comes, and works in a thread of its own: decodes do not wait for it.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from app.decoder.queue import QueueFull
from app.decoder.version_errors import VersionUnusable
from model_store.bundle import Bundle, ModelStore
from model_store.errors import TesseraError
from model_store.text_encoder import TextConfig, TextEncoder, text_config

_WAITING_AT_MOST = 16


class TextEncoding:
    """Encodes texts with the encoder of a version.

    Args:
        store: where versions are published.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._waiting = 0
        self._loaded: tuple[TextConfig, TextEncoder] | None = None

    async def encode(self, version: str, documents: Sequence[str], expires: float) -> NDArray[np.float32]:
        """Unit-length vectors; float32 [M, X].

        Args:
            version: whose encoder is meant.
            documents: M texts.
            expires: when the caller stops waiting, by the loop's clock.

        Raises:
            VersionUnusable: it is not in the store, or its encoder cannot be loaded.
            QueueFull: too many requests wait.
            TimeoutError: not finished in time. What the thread has begun it ends.
        """
        if self._waiting >= _WAITING_AT_MOST:
            raise QueueFull
        self._waiting += 1
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._encode, version, documents)
        running.add_done_callback(self._done)
        async with asyncio.timeout_at(expires):
            # A thread that has begun cannot be stopped.
            return await asyncio.shield(running)

    def close(self) -> None:
        """End the thread; what waits is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _done(self, running: "asyncio.Future[NDArray[np.float32]]") -> None:
        self._waiting -= 1
        # Nobody may be waiting for it any more; asyncio would say that it was never looked at.
        if not running.cancelled():
            running.exception()

    def _encode(self, version: str, documents: Sequence[str]) -> NDArray[np.float32]:
        try:
            config = text_config(Bundle(self._store.root / version, self._store.manifest(version)))
            if self._loaded is None or self._loaded[0] != config:
                self._loaded = None
                self._loaded = (config, TextEncoder(config))
            return self._loaded[1].encode(documents)
        except TesseraError as error:
            raise VersionUnusable(str(error)) from error
