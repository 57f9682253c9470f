"""Which recommended items got an event: answers are remembered for a while, and events that name them are counted.

A request pays for a tuple in a list. Once a second, behind all requests, answers go to Redis (`Keys.answers`), and
events that are old enough for every worker to have done so are looked up there. Each (recommendation, item) counts
once. An answer holds of each item the CRC-32 of its id, and nothing of the user.
"""

import asyncio
import random
import struct
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from redis.asyncio.client import Pipeline

from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.recommendation_ids import BATCH_DIGITS
from app.settings import Settings
from app.telemetry import Telemetry

FLUSH_S = 1.0
SETTLE_S = 2.5
"""How long an event waits before its answer is looked up: another worker may not have written it yet."""
MAX_ANSWERS = 500
"""Answers of one worker that are remembered of each second. Of more, so many are drawn: remembering an answer takes a
tenth of the time it takes to make, and the share of items that got an event is the same."""
MAX_EVENTS = 20_000
QUALITY_KEPT_S = 40 * 86_400
_AT_ONCE = 128
"""Answers encoded in one piece, and events looked up in one; others are served in between."""
_DAY_S = 86_400
_LONGEST_TEXT = 255
"""Bytes; a length is one byte."""

Answered = tuple[str, str, str, Sequence[str]]
"""Recommendation id, source, model version, item ids."""
Happened = tuple[float, str, str]
"""Time of the monotonic clock, recommendation id, item id."""


class Attribution:
    """Counts recommended items, and those of them that got an event. Belongs to one event loop."""

    def __init__(self, cache: RecommendationCache, settings: Settings, telemetry: Telemetry) -> None:
        self._cache = cache
        self._keys = cache.keys
        self._telemetry = telemetry
        self._share = settings.attribution_share
        self._window_s = settings.attribution_window_s
        self._answers: list[Answered] = []
        self._seen = 0
        self._events: deque[Happened] = deque()
        self._flushing = asyncio.Lock()

    def answered(self, recommendation_id: str, source: str, model_version: str, item_ids: Sequence[str]) -> None:
        """Note an answer that is about to be sent. `item_ids` must not change afterwards."""
        if not item_ids or (self._share < 1 and random.random() >= self._share):
            return
        self._seen += 1
        if len(self._answers) < MAX_ANSWERS:
            self._answers.append((recommendation_id, source, model_version, item_ids))
        elif (place := int(random.random() * self._seen)) < MAX_ANSWERS:
            self._answers[place] = recommendation_id, source, model_version, item_ids

    def happened(self, recommendation_id: str, item_id: str) -> None:
        """Note an event that names an answer."""
        if len(self._events) < MAX_EVENTS:
            self._events.append((time.monotonic(), recommendation_id, item_id))
        else:
            self._telemetry.attribution_dropped.labels("event", "full").inc()

    async def run(self) -> None:
        """Do every second what is due, until cancelled; what is left then is for `flush`."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush(settle_s=SETTLE_S)

    async def flush(self, *, settle_s: float = 0.0) -> None:
        """Take answers to Redis, and count the events that are at least so old; drop what Redis does not accept."""
        async with self._flushing:
            answers, self._answers = self._answers, []
            seen, self._seen = self._seen, 0
            self._telemetry.attribution_dropped.labels("answer", "full").inc(seen - len(answers))
            for start in range(0, len(answers), _AT_ONCE):
                part = answers[start : start + _AT_ONCE]
                try:
                    await self._remember(part)
                except CacheUnavailable:
                    self._telemetry.attribution_dropped.labels("answer", "redis").inc(len(part))
            until = time.monotonic() - settle_s
            while self._events and self._events[0][0] <= until:
                due: list[tuple[str, str]] = []
                while self._events and self._events[0][0] <= until and len(due) < _AT_ONCE:
                    due.append(self._events.popleft()[1:])
                try:
                    await self._count(due)
                except CacheUnavailable:
                    self._telemetry.attribution_dropped.labels("event", "redis").inc(len(due))

    async def _remember(self, answers: Iterable[Answered]) -> None:
        batches: dict[str, dict[bytes, bytes]] = {}
        shown: Counter[tuple[str, str]] = Counter()
        for recommendation_id, source, version, item_ids in answers:
            where = _place_of(recommendation_id)
            if where is None:
                continue
            batches.setdefault(where[0], {})[where[1]] = pack_answer(source, version, item_ids)
            shown[source, version] += len(item_ids)
        quality = self._keys.quality(int(time.time() // _DAY_S))

        def commands(pipeline: Pipeline) -> None:
            for batch, packed in batches.items():
                key = self._keys.answers(batch)
                pipeline.hset(key, mapping=packed)  # type: ignore[arg-type]
                pipeline.expire(key, self._window_s)
            for (source, version), items in shown.items():
                pipeline.hincrby(quality, f"shown:{source}:{version}", items)
            pipeline.expire(quality, QUALITY_KEPT_S)

        await self._cache.execute("attribution", commands)
        for (source, version), items in shown.items():
            self._telemetry.recommended_items.labels(source, version).inc(items)

    async def _count(self, events: Iterable[tuple[str, str]]) -> None:
        named = [(place, item_id) for rec_id, item_id in events if (place := _place_of(rec_id)) is not None]
        if not named:
            return

        def look_up(pipeline: Pipeline) -> None:
            for (batch, field), _ in named:
                pipeline.hget(self._keys.answers(batch), field)

        packed = await self._cache.execute("attribution", look_up)
        hits = []
        for (place, item_id), value in zip(named, packed, strict=True):
            answer = None if value is None else unpack_answer(value)
            if answer is not None and (digest := _digest(item_id)) in answer[2]:
                hits.append((place, digest, answer[0], answer[1]))
        if not hits:
            return

        def mark(pipeline: Pipeline) -> None:
            for (batch, field), digest, _, _ in hits:
                pipeline.hsetnx(self._keys.hits(batch), field + digest, "")
                pipeline.expire(self._keys.hits(batch), self._window_s)

        first = (await self._cache.execute("attribution", mark))[::2]
        counted: Counter[tuple[str, str]] = Counter()
        for (_, _, source, version), is_first in zip(hits, first, strict=True):
            counted[source, version] += int(is_first)
        quality = self._keys.quality(int(time.time() // _DAY_S))

        def add(pipeline: Pipeline) -> None:
            for (source, version), items in counted.items():
                pipeline.hincrby(quality, f"hits:{source}:{version}", items)
            pipeline.expire(quality, QUALITY_KEPT_S)

        await self._cache.execute("attribution", add)
        for (source, version), items in counted.items():
            self._telemetry.recommended_items_with_event.labels(source, version).inc(items)


def pack_answer(source: str, version: str, item_ids: Iterable[str]) -> bytes:
    """An answer as it is stored: lengths of two texts, the texts, and 4 bytes for each item."""
    texts = source.encode()[:_LONGEST_TEXT], version.encode()[:_LONGEST_TEXT]
    return struct.pack("BB", *map(len, texts)) + b"".join((*texts, *map(_digest, item_ids)))


def unpack_answer(value: bytes) -> tuple[str, str, frozenset[bytes]] | None:
    """Source, model version and digests of the items; None for what is not such an answer."""
    if len(value) < 2:
        return None
    middle, end = 2 + value[0], 2 + value[0] + value[1]
    if end > len(value) or (len(value) - end) % 4:
        return None
    digests = frozenset(value[start : start + 4] for start in range(end, len(value), 4))
    return value[2:middle].decode(errors="replace"), value[middle:end].decode(errors="replace"), digests


def _digest(item_id: str) -> bytes:
    return zlib.crc32(item_id.encode()).to_bytes(4, "little")


def _place_of(recommendation_id: str) -> tuple[str, bytes] | None:
    """The hash and the field of an answer; None for what is no id of ours."""
    try:
        return recommendation_id[:BATCH_DIGITS], bytes.fromhex(recommendation_id[BATCH_DIGITS:])
    except ValueError:
        return None
