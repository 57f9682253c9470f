"""Scores by the rankers of versions, in a thread of their own: decodes do not wait for them.

A ranker is loaded when its version becomes the active one, or at the first request. Versions with the same files of a
ranker and as many items share it.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.decoder.queue import QueueFull
from app.decoder.version_errors import VersionMissing, VersionUnusable
from app.structured_logging import FIELDS
from model_store.bundle import Bundle, ModelStore
from model_store.errors import BundleNotFound, TesseraError
from model_store.manifest import LANGUAGE_MODEL_FOLDER, Manifest

if TYPE_CHECKING:
    from model_store.rankers.ranker import Ranker, RankRequest

_UNREAD_FOLDERS = (LANGUAGE_MODEL_FOLDER, "encoder/", "teacher/", "quantizer/")

_logger = logging.getLogger(__name__)


class Ranking:
    """Ranks by the rankers of a store's versions.

    Args:
        store: where versions are published.
        limit: requests that may wait.
        keep: rankers kept in memory.
        retry_s: how long a version whose ranker could not be loaded is refused.
    """

    def __init__(self, store: ModelStore, *, limit: int, keep: int, retry_s: float) -> None:
        self._store, self._limit, self._keep, self._retry_s = store, limit, keep, retry_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rank")
        self._waiting = 0
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._loaded: OrderedDict[object, Ranker] = OrderedDict()
        self._unusable: dict[str, tuple[float, str]] = {}

    async def rank(
        self, version: str, history: list[int], candidates: list[int], user_key: int | None, expires: float
    ) -> tuple[str, NDArray[np.float32]]:
        """The name of the version's ranker and the score of every candidate; float32 [K].

        Args:
            version: whose ranker is meant.
            history, candidates: item indices.
            user_key: who it is; None for a session.
            expires: when the caller stops waiting, by the loop's clock.

        Raises:
            VersionUnusable: it is not in the store, has no ranker, or it cannot be loaded.
            ValueError: an item index is outside the catalogue.
            QueueFull: too many requests wait.
            TimeoutError: not finished in time. What the thread has begun it ends, the rest it leaves out.
        """
        if self._waiting >= self._limit:
            raise QueueFull
        loop = asyncio.get_running_loop()

        def work() -> tuple[str, NDArray[np.float32]]:
            if loop.time() >= expires:
                raise TimeoutError
            manifest, ranker = self._ranker(version)
            request = _request(manifest, history, candidates, user_key)
            assert manifest.ranker is not None
            return manifest.ranker.recipe, ranker.rank([request])[0]

        self._waiting += 1
        running = loop.run_in_executor(self._thread, work)
        running.add_done_callback(self._done)
        async with asyncio.timeout_at(expires):
            # A thread that has begun cannot be stopped.
            return await asyncio.shield(running)

    async def prepare(self, version: str) -> None:
        """Load the version's ranker, if it has one; trouble is logged, and told to whoever asks for it."""
        if version not in self._manifests:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._prepare, version)

    def close(self) -> None:
        """End the thread; what waits is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _done(self, running: "asyncio.Future[tuple[str, NDArray[np.float32]]]") -> None:
        self._waiting -= 1
        # Nobody may be waiting for it any more; asyncio would say that it was never looked at.
        if not running.cancelled():
            running.exception()

    def _prepare(self, version: str) -> None:
        try:
            if self._manifest(version).ranker is not None:
                self._ranker(version)
        except VersionUnusable as error:
            _logger.error("ranker cannot be loaded: %s", error, extra={FIELDS: {"version": version}})

    def _ranker(self, version: str) -> "tuple[Manifest, Ranker]":
        manifest = self._manifest(version)
        if manifest.ranker is None:
            raise VersionUnusable(f"version {version} has no ranker")
        until, message = self._unusable.get(version, (0.0, ""))
        if time.monotonic() < until:
            raise VersionUnusable(message)
        key = (manifest.items, *sorted((name, record.sha256) for name, record in manifest.ranker_files.items()))
        if key not in self._loaded:
            while len(self._loaded) >= self._keep:
                self._loaded.popitem(last=False)
            try:
                self._loaded[key] = _load(self._store.open(version, skip=_UNREAD_FOLDERS))
            # The model libraries raise whatever a broken checkpoint provokes in them.
            except Exception as error:
                if not isinstance(error, TesseraError):
                    _logger.exception("ranker cannot be loaded")
                self._unusable = {version: (time.monotonic() + self._retry_s, str(error))}
                raise VersionUnusable(str(error)) from error
        self._loaded.move_to_end(key)
        return manifest, self._loaded[key]

    def _manifest(self, version: str) -> Manifest:
        if version not in self._manifests:
            try:
                self._manifests[version] = self._store.manifest(version)
            except BundleNotFound as error:
                raise VersionMissing(str(error)) from error
            except TesseraError as error:
                raise VersionUnusable(str(error)) from error
            while len(self._manifests) > 2 * self._keep:
                self._manifests.popitem(last=False)
        return self._manifests[version]


def _load(bundle: Bundle) -> "Ranker":
    """Load a bundle's ranker and rank once, so that no request pays for first-use costs."""
    # Imported here: it takes seconds, and few deployments need it.
    from model_store.default_device import default_device
    from model_store.rankers.ranker_files import load_ranker

    assert bundle.ranker_path is not None
    begin = time.monotonic()
    ranker = load_ranker(bundle.ranker_path, bundle.catalog, default_device())
    scores = ranker.rank([_request(bundle.manifest, [0], list(range(min(bundle.manifest.items, 20))), None)])[0]
    if not np.isfinite(scores).all():
        raise TesseraError(f"{bundle.ranker_path}: a warm-up gave scores that are no numbers; its weights may hold NaN")
    fields = {"version": bundle.version, "ranker": ranker.kind, "s": round(time.monotonic() - begin, 2)}
    _logger.info("ranker loaded", extra={FIELDS: fields})
    return ranker


def _request(
    manifest: Manifest, history: Sequence[int], candidates: Sequence[int], user_key: int | None
) -> "RankRequest":
    from model_store.rankers.ranker import RankRequest

    for name, items in (("history", history), ("candidates", candidates)):
        if any(not 0 <= item < manifest.items for item in items):
            raise ValueError(f"{name}: item indices of version {manifest.version} are 0 to {manifest.items - 1}")
    return RankRequest(
        history=np.array(history, dtype=np.int32), candidates=np.array(candidates, dtype=np.int32), user_key=user_key
    )
