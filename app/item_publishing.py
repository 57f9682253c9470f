"""Makes new items part of what is served: a version that extends the served one is published and activated.

One worker of all does it at a time, a while after the last new item. The version it makes takes the place of the one
before it, to which `tessera models rollback` does not go back; the newest few such versions stay in the store.
"""

import asyncio
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path

from app.active_version import ActiveVersion
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_places import ItemPlaces, NoPlace
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.served_model import ServedModel
from app.settings import Settings
from app.structured_logging import FIELDS
from app.telemetry import Telemetry
from app.version_extension import MADE_BY, ExtensionOutcome, ExtensionWork, NewItem
from model_store.bundle import MODEL_FOLDERS, ModelStore
from model_store.errors import TesseraError
from model_store.item_records import ItemChange, document
from model_store.manifest import Manifest

_LOOK_S = 0.2
_LONGEST_DELAYS = 5
_TIMEOUT_S = 300
_HELD_S = 30
"""A worker that dies while it publishes holds up the others for so long."""
_RETRY_S = 30.0
_KEPT = 3
_ITEMS_TOGETHER = 5000

_logger = logging.getLogger(__name__)


class _Trouble(Exception):
    """Why nothing was published; said to callers."""


class ItemPublishing:
    """Publishes versions with new items until cancelled.

    Args:
        store: where versions are.
        active: which is served.
        cache: says which is served everywhere, and who publishes.
        overlay: knows new items.
        log: for items that need another place.
        places: gives those.
        settings: how long to wait for more.
        telemetry: counts.
    """

    def __init__(
        self,
        store: ModelStore,
        active: ActiveVersion,
        cache: RecommendationCache,
        overlay: ItemOverlay,
        log: ItemLog,
        places: ItemPlaces,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._active = active
        self._cache = cache
        self._overlay = overlay
        self._log = log
        self._places = places
        self._keys = cache.keys
        self._delay_s = settings.item_publish_delay_ms / 1000
        self._telemetry = telemetry
        self.trouble: str | None = None
        """Why new items do not become part of what is served; None where nothing is wrong."""

    async def run(self) -> None:
        """Publish what is new, until cancelled."""
        while True:
            await self._until_due()
            try:
                await self._publish()
            except CacheUnavailable:
                await asyncio.sleep(_LOOK_S)
            except _Trouble as trouble:
                self.trouble = str(trouble)
                self._telemetry.item_publishes.labels("failed").inc()
                _logger.error("new items cannot be published", extra={FIELDS: {"reason": self.trouble}})
                await asyncio.sleep(_RETRY_S)

    def pending(self) -> list[str]:
        """New items that the served version does not have."""
        catalog = self._active.served.catalog
        new = (item_id for item_id in self._overlay.placed if item_id not in catalog)
        return sorted(item_id for item_id in new if not self._overlay.is_deleted(item_id))

    async def _until_due(self) -> None:
        """Return once there are new items and nothing has been said of any for a while, or for the longest while."""
        seen: list[str] = []
        first = latest = 0.0
        while True:
            pending, now = self.pending(), time.monotonic()
            if not pending:
                self.trouble = None
            elif pending != seen:
                first, latest = (first if seen else now), now
            seen = pending
            if seen and (now - latest >= self._delay_s or now - first >= _LONGEST_DELAYS * self._delay_s):
                return
            await asyncio.sleep(min(_LOOK_S, max(self._delay_s, 0.01)))

    async def _publish(self) -> None:
        (won,) = await self._cache.execute(
            "publish", lambda p: p.set(self._keys.items_publishing, "", nx=True, ex=_HELD_S), patient=True
        )
        if not won:
            # Another worker does; its version has them, or the next one.
            await asyncio.sleep(_LOOK_S)
            return
        holding = asyncio.create_task(self._hold(), name="publishing-held")
        try:
            await self._publish_alone()
        finally:
            holding.cancel()
            with suppress(CacheUnavailable):
                await self._cache.execute("publish", lambda p: p.delete(self._keys.items_publishing), patient=True)

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(_HELD_S / 3)
            with suppress(CacheUnavailable):
                await self._cache.execute(
                    "publish", lambda p: p.expire(self._keys.items_publishing, _HELD_S), patient=True
                )

    async def _publish_alone(self) -> None:
        model = self._active.served
        if await self._served_everywhere() != model.version:
            # It changes just now; what is new under the other version is seen once it is served here.
            await asyncio.sleep(_LOOK_S)
            return
        await self._log.sync(patient=True)
        pending = self.pending()[:_ITEMS_TOGETHER]
        await self._place_again(
            model, [i for i in pending if self._line_of(i) != model.bundle.cache_version], attempt=0
        )
        items = [self._new_item(i) for i in pending if self._line_of(i) == model.bundle.cache_version]
        if not items:
            return
        work = ExtensionWork(store=str(self._store.root.absolute()), base=model.version, items=items)
        outcome = await _in_a_process(work)
        if outcome.trouble is not None:
            raise _Trouble(outcome.trouble)
        for item_id in outcome.conflicts:
            attempt = self._overlay.records[item_id]["place"]["attempt"] + 1
            await self._place_again(model, [item_id], attempt=attempt)
        if outcome.version is not None:
            await self._activate(model, outcome.version)

    async def _activate(self, model: ServedModel, version: str) -> None:
        if await self._served_everywhere() != model.version:
            # Somebody chose another one meanwhile, and that is what is served.
            self._telemetry.item_publishes.labels("overtaken").inc()
            return
        try:
            # The other files are those of the base.
            await asyncio.to_thread(self._store.activate, version, skip=MODEL_FOLDERS, in_place=True)
        except (TesseraError, OSError) as error:
            raise _Trouble(f"{type(error).__name__}: the new version cannot be activated") from error
        await self._cache.activate(version)
        self._active.noticed(version)
        self._telemetry.item_publishes.labels("done").inc()
        _logger.info("published new items", extra={FIELDS: {"version": version}})
        with suppress(TesseraError, OSError):
            await asyncio.to_thread(self._store.prune_behind, version, _KEPT, _is_expendable)

    async def _place_again(self, model: ServedModel, item_ids: list[str], *, attempt: int) -> None:
        if not item_ids:
            return
        documents = {item_id: document(item_id, self._overlay.records[item_id]) for item_id in item_ids}
        try:
            places = await self._places.give(model, documents, attempt=attempt)
        except NoPlace as error:
            raise _Trouble(f"the decoder gives new items no codes ({error.reason})") from error
        await self._log.append([ItemChange(i, "patch", {"place": place}) for i, place in places.items()])

    async def _served_everywhere(self) -> str | None:
        return await self._cache.active_version() or await asyncio.to_thread(self._store.active)

    def _line_of(self, item_id: str) -> str:
        return self._overlay.records[item_id]["place"]["line"]

    def _new_item(self, item_id: str) -> NewItem:
        record = self._overlay.records[item_id]
        return NewItem(
            item_id=item_id,
            title=record.get("title", item_id),
            text=record.get("text", ""),
            categories=record.get("categories", []),
            price=record.get("price"),
            attributes=record.get("attributes", {}),
            in_stock=record.get("in_stock", True),
            code=record["place"]["code"],
            vector=record["place"]["vector"],
        )


def _is_expendable(manifest: Manifest) -> bool:
    return bool(manifest.metrics.get("extension", {}).get("made_by") == MADE_BY)


async def _in_a_process(work: ExtensionWork) -> ExtensionOutcome:
    # Where this package is, whatever folder the server was started in.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.version_extension",
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            told, _ = await process.communicate(work.model_dump_json().encode())
    except TimeoutError:
        raise _Trouble("publishing a version with them takes too long") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise _Trouble("publishing a version with them failed; its process wrote why")
    return ExtensionOutcome.model_validate_json(told)
