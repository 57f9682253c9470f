"""The changes of items as they stand in Redis: a log that every worker reads on before it answers, and a snapshot.

A write is one entry of a stream, and counts as accepted when Redis has it. A worker keeps the id of the newest entry it
has folded (`ItemOverlay.cursor`) and asks for later ones in the round trip that an answer takes anyway, or in one of
its own. Now and then one worker brings the snapshot, a hash, up to date, and cuts off the beginning of the log
(docs/decisions/0021-item-log.md).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

import orjson
from redis.asyncio.client import Pipeline

from app.item_overlay import ItemOverlay
from app.recommendation_cache import ITEM_CHANGES_READ, CacheUnavailable, RecommendationCache
from app.settings import Settings
from app.structured_logging import FIELDS
from app.telemetry import Telemetry
from model_store.item_log import (
    BEGINNING,
    LogEntry,
    LogId,
    changed_ids,
    fold_entry,
    format_id,
    format_next,
    parse_id,
)
from model_store.item_records import ItemChange, ItemRecord, pack_changes

COMPACT_S = 60
"""How often the snapshot is brought up to date; whoever begins has half of the time to end."""
LOG_KEPT_S = 600
"""Entries stay in the log for so long at least, for workers that read on."""
UNHEARD_S = 60.0
"""A worker that has read nothing for so long reads everything anew."""

_YOUNG_S = 5.0
"""A Redis that dies may lose its last second or two: so long it is looked whether entries are still there."""
_YOUNG_AT_MOST = 100
_READ_TOGETHER = 1000
_WRITTEN_TOGETHER = 500

_logger = logging.getLogger(__name__)


class ItemLog:
    """Keeps an overlay in step with Redis. Belongs to one event loop.

    Args:
        cache: speaks to Redis; its reads take the log along from now on.
        overlay: what is kept in step.
        settings: how often to look without being asked.
        telemetry: counts.
    """

    def __init__(
        self, cache: RecommendationCache, overlay: ItemOverlay, settings: Settings, telemetry: Telemetry
    ) -> None:
        self._cache = cache
        self._overlay = overlay
        self._keys = cache.keys
        self._poll_s = settings.active_poll_ms / 1000
        self._telemetry = telemetry
        self._loading = asyncio.Lock()
        self._loaded = False
        self._heard_while_loading: list[LogEntry] | None = None
        self._more = False
        self._full_replies = 0
        self._heard_at = time.monotonic()
        self._young: deque[tuple[LogId, float]] = deque(maxlen=_YOUNG_AT_MOST)
        """Entries folded lately, and when, by the monotonic clock."""
        self._compacted_at = time.monotonic()
        cache.next_item_change = self._next
        cache.on_item_changes = self._heard

    async def sync(self, *, patient: bool = False) -> None:
        """Read on to the end of the log: afterwards every write that was accepted before the call is known.

        Args:
            patient: whether it may take the time of a write rather than that of a read.

        Raises:
            CacheUnavailable: what was known before is all there is.
        """
        if not self._loaded:
            # Requests do not wait for all of it. `run` reads it as soon as Redis answers.
            raise CacheUnavailable("items: not read yet")
        while True:
            full_replies = self._full_replies
            (entries,) = await self._cache.execute("items", self._read_on, patient=patient)
            self._heard(entries)
            if len(entries) < ITEM_CHANGES_READ:
                # Unless somebody else has found meanwhile that there is more.
                self._more &= full_replies != self._full_replies
                return

    @property
    def behind(self) -> bool:
        """Whether `catch_up` has something to do."""
        return self._more or not self._loaded

    async def catch_up(self) -> None:
        """Read on where a read that took the log along has not reached its end.

        Raises:
            CacheUnavailable: as for `sync`.
        """
        if self.behind:
            await self.sync()

    async def append(self, changes: list[ItemChange]) -> None:
        """Write changes; they are known here too when this returns.

        Raises:
            CacheUnavailable: they do not count as accepted. If they were written all the same, writing them again does
                no harm.
        """
        if not self._loaded:
            raise CacheUnavailable("items: not read yet")

        def commands(pipeline: Pipeline) -> None:
            pipeline.xadd(self._keys.items_log, pack_changes(changes))  # type: ignore[arg-type]
            self._read_on(pipeline)

        _, entries = await self._cache.execute("items", commands, patient=True)
        self._heard(entries)
        self._telemetry.item_changes.inc(len(changes))
        if self._more:
            await self.sync(patient=True)

    async def load(self, *, again: bool = False) -> None:
        """Read the snapshot and the log, unless that is done already.

        Args:
            again: even then.

        Raises:
            CacheUnavailable: what was known before is all there is.
        """
        async with self._loading:
            if self._loaded and not again:
                return
            self._heard_while_loading = []
            try:
                records, cursor = await self._everything()
                for entry in self._heard_while_loading:
                    cursor = fold_entry(records, cursor, entry)
            finally:
                self._heard_while_loading = None
            self._overlay.replace(records, cursor)
            self._young.clear()
            self._young.append((cursor, time.monotonic()))
            self._loaded, self._more = True, False
            self._heard_at = time.monotonic()

    async def run(self) -> None:
        """Stay in step without being asked, and bring the snapshot up to date, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._check()
                if time.monotonic() - self._compacted_at >= COMPACT_S:
                    self._compacted_at = time.monotonic()
                    if await self._may_compact():
                        await self.compact()
            except CacheUnavailable:
                continue

    async def compact(self) -> None:
        """Bring the snapshot up to date and cut off what the log need not keep.

        What is written is of this moment or later, and `items_upto` is set last: whoever dies in between leaves a
        snapshot that is ahead of what it says, which reading on from there makes right.

        Raises:
            CacheUnavailable: perhaps a part is written.
        """
        begin = time.monotonic()
        await self.sync(patient=True)
        upto = self._overlay.cursor
        (written,) = await self._cache.execute("compact", lambda p: p.get(self._keys.items_upto), patient=True)
        at = parse_id(written) if written else BEGINNING
        changed: set[str] = set()
        while at < upto:
            entries = await self._log_after(at)
            if not entries:
                break
            changed |= changed_ids(entries)
            at = parse_id(entries[-1][0])
        item_ids = sorted(changed)
        for start in range(0, len(item_ids), _WRITTEN_TOGETHER):
            if time.monotonic() - begin > COMPACT_S / 2:
                # Another worker may have begun; an older record must not come after its newer one.
                _logger.warning("item snapshot not finished", extra={FIELDS: {"items": len(item_ids)}})
                return
            part = item_ids[start : start + _WRITTEN_TOGETHER]
            packed = {i: orjson.dumps(self._overlay.records[i]) for i in part if i in self._overlay.records}
            if packed:

                def write(pipeline: Pipeline, packed: dict[str, bytes] = packed) -> None:
                    pipeline.hset(self._keys.items, mapping=packed)  # type: ignore[arg-type]

                await self._cache.execute("compact", write, patient=True)
        if not upto > BEGINNING:
            return
        kept_from = min(upto, (int((time.time() - LOG_KEPT_S) * 1000), 0))

        def settle(pipeline: Pipeline) -> None:
            pipeline.set(self._keys.items_upto, format_id(upto))
            pipeline.xtrim(self._keys.items_log, minid=format_id(kept_from), approximate=True)

        await self._cache.execute("compact", settle, patient=True)

    async def _check(self) -> None:
        """Read on, and read everything anew where Redis is not the one that was read before."""
        now = time.monotonic()
        unheard = not self._loaded or now - self._heard_at > UNHEARD_S
        young = [entry_id for entry_id, _ in self._young] or [self._overlay.cursor]

        def commands(pipeline: Pipeline) -> None:
            pipeline.get(self._keys.items_upto)
            pipeline.xrange(
                self._keys.items_log, min=format_id(young[0]), max=format_id(young[-1]), count=_YOUNG_AT_MOST
            )
            self._read_on(pipeline)

        upto, there, entries = await self._cache.execute("items", commands)
        # What the snapshot includes may have been cut off.
        certain = parse_id(upto) if upto else BEGINNING
        lost = {entry_id for entry_id in young if entry_id > certain} - {parse_id(entry_id) for entry_id, _ in there}
        if lost:
            _logger.warning("Redis has lost changes of items; reading what it has")
        if unheard or lost:
            await self.load(again=True)
            return
        while self._young and now - self._young[0][1] > _YOUNG_S:
            self._young.popleft()
        self._heard(entries)
        await self.catch_up()

    async def _may_compact(self) -> bool:
        (won,) = await self._cache.execute(
            "compact", lambda p: p.set(self._keys.items_compacting, "", nx=True, ex=COMPACT_S), patient=True
        )
        return bool(won)

    async def _everything(self) -> tuple[dict[str, ItemRecord], LogId]:
        # The position first: the snapshot may be ahead of it, never behind.
        (upto,) = await self._cache.execute("items", lambda p: p.get(self._keys.items_upto), patient=True)
        records: dict[str, ItemRecord] = {}
        scanned = 0
        while True:

            def scan(pipeline: Pipeline, scanned: int = scanned) -> None:
                pipeline.hscan(self._keys.items, scanned, count=_READ_TOGETHER)

            ((scanned, packed),) = await self._cache.execute("items", scan, patient=True)
            records.update((item_id.decode(), orjson.loads(record)) for item_id, record in packed.items())
            if not scanned:
                break
        cursor = parse_id(upto) if upto else BEGINNING
        while entries := await self._log_after(cursor):
            for entry in entries:
                cursor = fold_entry(records, cursor, entry)
        return records, cursor

    async def _log_after(self, cursor: LogId) -> Sequence[LogEntry]:
        def read(pipeline: Pipeline) -> None:
            pipeline.xrange(self._keys.items_log, min=format_next(cursor), count=_READ_TOGETHER)

        (entries,) = await self._cache.execute("items", read, patient=True)
        found: Sequence[LogEntry] = entries
        return found

    def _next(self) -> str:
        return format_next(self._overlay.cursor)

    def _read_on(self, pipeline: Pipeline) -> None:
        pipeline.xrange(self._keys.items_log, min=self._next(), count=ITEM_CHANGES_READ)

    def _heard(self, entries: Sequence[LogEntry]) -> None:
        if self._heard_while_loading is not None:
            self._heard_while_loading += entries
        if not self._loaded:
            return
        now = time.monotonic()
        self._young.extend((entry_id, now) for entry_id in self._overlay.apply(entries))
        if len(entries) == ITEM_CHANGES_READ:
            self._more = True
            self._full_replies += 1
        self._heard_at = time.monotonic()
