"""The policy: which parts answer a request, in which order.

    cache       the decoded entry, fresh or stale; a stale one also asks for a refresh in the background
    live        a decode now, when the entry is missing or has too few items left; written back
    neighbors   items near the newest of the history, when there is no live answer
    popular     whatever else passes the filter

With a query the live decode comes first: what is cached was made without the query. Within the cache (`within=cache`)
the live decoder first ranks the entry's items by the newest events or the query. Neither is written back.

Each step adds to the list what the ones before left missing, and all of them through the same filter. No part's absence
is an error: the next one answers, and the answer says `degraded`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.active_version import ActiveVersion
from app.cached_answer import CachedAnswer, cached_answer, is_simple
from app.decode_wire import MAX_ITEMS
from app.draft import Draft
from app.eligibility import EVERYTHING_IN_STOCK
from app.entry_decoding import EntryDecoding
from app.finished_answers import FinishedAnswers
from app.item_log import ItemLog
from app.json_response import json_bytes
from app.live_decoding import LiveAnswer, LiveDecoding, LiveDecodingUnavailable, LiveRequest
from app.recommendation import Recommendation, Source, Wanted
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.served_model import ServedModel
from app.settings import Settings
from app.telemetry import Telemetry
from app.user_state import UserState
from model_store.prefix_trie import EligibleItems

Step = Callable[[Draft], Awaitable[None]]
Answer = TypeVar("Answer")


class Recommender:
    """Answers requests. Never raises because Redis or the decoder is away."""

    def __init__(
        self,
        active: ActiveVersion,
        cache: RecommendationCache,
        item_log: ItemLog,
        live: LiveDecoding,
        entries: EntryDecoding,
        finished: FinishedAnswers,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._active = active
        self._cache = cache
        self._item_log = item_log
        self._live = live
        self._entries = entries
        self._finished = finished
        self._settings = settings
        self._telemetry = telemetry
        self._writing: set[asyncio.Task[None]] = set()

    async def answer(self, user_id: str, wanted: Wanted) -> tuple[Source, bytes]:
        """Answer one user's request: where the list came from, and the response's bytes.

        Args:
            user_id: who is answered.
            wanted: the request; its own `user_id` is not looked at.
        """
        model = self._active.served
        begin = perf_counter()
        stored, unavailable = None, {}
        try:
            # Takes the changes of items along.
            stored = await self._cache.stored(model.entry_layout, user_id)
            if self._item_log.behind:
                await self._item_log.catch_up()
        except CacheUnavailable as error:
            unavailable["redis"] = str(error)
        read = perf_counter()
        self._telemetry.stage_done("redis", read - begin)
        if stored is not None and not unavailable and is_simple(wanted):
            quick = cached_answer(model, user_id, wanted, stored, self._settings.cache_max_age_s, time.time())
            if quick is not None:
                self._telemetry.stage_done("cache", perf_counter() - read)
                self._note(quick, user_id, wanted, model)
                return quick.source, quick.body
        state = UserState() if stored is None else self._cache.state_of(stored)
        wanted, timings_ms = replace(wanted, user_id=user_id), {"redis": (read - begin) * 1000}
        draft = Draft(model, wanted, state, self._settings.cache_max_age_s, unavailable, timings_ms)
        answer = await self._complete(draft)
        return answer.source, json_bytes(answer)

    async def recommend(self, wanted: Wanted) -> Recommendation:
        """Answer one request."""
        return (await self.recommend_many((wanted,)))[0]

    async def recommend_many(self, wanted: Sequence[Wanted]) -> list[Recommendation]:
        """Answer several requests with one round trip to Redis and one model version, in their order."""
        model = self._active.served
        drafts = await self._begin(model, wanted)
        if len(drafts) == 1:
            return [await self._complete(drafts[0])]
        return await asyncio.gather(*(self._complete(draft) for draft in drafts))

    async def settle(self) -> None:
        """Wait for the entries that are being written back."""
        await asyncio.gather(*self._writing)

    async def _begin(self, model: ServedModel, wanted: Sequence[Wanted]) -> list[Draft]:
        user_ids = [one.user_id for one in wanted if one.user_id is not None]
        states: list[UserState] = []
        timings_ms: dict[str, float] = {}
        unavailable: dict[str, str] = {}
        try:
            with self._telemetry.stage("redis", timings_ms):
                if user_ids:
                    # Takes the changes of items along.
                    states = await self._cache.read_many(model.entry_layout, user_ids)
                    await self._item_log.catch_up()
                else:
                    await self._item_log.sync()
        except CacheUnavailable as error:
            states = states or [UserState()] * len(user_ids)
            unavailable["redis"] = str(error)
        known = iter(states)
        return [
            Draft(
                model,
                one,
                UserState() if one.user_id is None else next(known),
                self._settings.cache_max_age_s,
                {**unavailable},
                {**timings_ms},
            )
            for one in wanted
        ]

    async def _complete(self, draft: Draft) -> Recommendation:
        for step in self._chain(draft):
            await step(draft)
            if not draft.missing:
                break
        if draft.drop_removed() and not draft.wanted.strict:
            await self._from_popular(draft)
        if draft.missing and draft.quota is not None:
            await self._over_all_items(draft, draft.note_shortfall)
        # Nothing is awaited from here on.
        draft.drop_removed()
        answer = draft.finish()
        self._finished.passed(
            recommendation_id=answer.recommendation_id,
            user_id=answer.user_id,
            item_ids=[item.item_id for item in answer.items],
            source=answer.source,
            model_version=answer.model_version,
            degraded=answer.degraded,
            given=draft.given(),
            outdated=draft.outdated,
            personal=draft.personal,
            fresh=draft.fresh,
            read_after_s=draft.wanted.write_back_after_s,
        )
        self._note_scenario(draft.wanted)
        if answer.degraded:
            self._telemetry.degraded.inc()
        if answer.shortfall_reason is not None:
            self._telemetry.short.labels(answer.shortfall_reason).inc()
        for option, why in answer.not_applied.items():
            self._telemetry.not_applied.labels(option, why).inc()
        return answer

    def _note(self, quick: CachedAnswer, user_id: str, wanted: Wanted, model: ServedModel) -> None:
        fresh = quick.source == "cache"
        self._note_scenario(wanted)
        self._telemetry.cache_age_seconds.observe(quick.age_s)
        self._finished.passed(
            recommendation_id=quick.recommendation_id,
            user_id=user_id,
            item_ids=quick.item_ids,
            source=quick.source,
            model_version=model.version,
            degraded=False,
            given={"cache": wanted.offset + wanted.n},
            outdated=quick.known and not fresh,
            personal=quick.known,
            fresh=fresh,
            read_after_s=wanted.write_back_after_s,
        )

    def _note_scenario(self, wanted: Wanted) -> None:
        # One that is configured: there are few.
        if wanted.scenario is not None:
            self._telemetry.scenarios.labels(wanted.scenario).inc()

    def _chain(self, draft: Draft) -> tuple[Step, ...]:
        wanted = draft.wanted
        personal: tuple[Step, ...] = (self._from_cache, self._from_live, self._from_neighbors)
        if wanted.query is not None or (draft.stale and wanted.fresh):
            personal = (self._from_live, self._from_cache, self._from_neighbors)
        if wanted.within is not None:
            personal = (self._from_reranked_cache, *personal)
        return personal if wanted.strict else (*personal, self._from_popular)

    async def _from_reranked_cache(self, draft: Draft) -> None:
        wanted = draft.wanted
        if draft.entry is None:
            draft.not_applied["within"] = "redis" if "redis" in draft.unavailable else "no_entry"
            return
        if wanted.query is None and not draft.stale:
            # Without news it is in that order already.
            return
        if wanted.query is None and not draft.history:
            draft.not_applied["within"] = "no_history"
            return
        candidates = draft.open_entry()[:MAX_ITEMS]
        if wanted.explain:
            draft.note_removed(draft.model.items_of_codes(draft.entry.codes_KL))
        if not len(candidates):
            return
        # Filtered already, so the decoder needs no filter.
        answer = await self._live_answer(draft, self._live.decode(self._request(draft, candidates=candidates)))
        if answer is None:
            draft.not_applied["within"] = draft.unavailable["decoder"]
        else:
            draft.add(answer.items, answer.scores, "reranked", "live")

    async def _from_cache(self, draft: Draft) -> None:
        if draft.entry is None:
            return
        with self._telemetry.stage("cache", draft.timings_ms):
            items = draft.model.items_of_codes(draft.entry.codes_KL)
            draft.add(items, draft.entry.scores, "cache", "stale_cache" if draft.stale else "cache")
            if draft.wanted.explain:
                draft.note_removed(items)
        self._telemetry.cache_age_seconds.observe(draft.entry_age_s)

    async def _from_live(self, draft: Draft) -> None:
        if draft.wanted.query is None and (not draft.history or not self._live.configured):
            return
        # Once is enough of what has failed in this very request.
        if "decoder" in draft.unavailable or not await self._anything_left(draft):
            return
        decode = self._decode_entry(draft) if self._makes_entry(draft) else self._decode_gap(draft)
        answer = await self._live_answer(draft, decode)
        if answer is not None:
            draft.add(answer.items, answer.scores, "live", "live")

    async def _live_answer(self, draft: Draft, decode: Coroutine[Any, Any, LiveAnswer]) -> LiveAnswer | None:
        try:
            with self._telemetry.stage("live", draft.timings_ms):
                answer = await decode
                draft.live_engine = answer.generator
                return answer
        except LiveDecodingUnavailable as error:
            self._telemetry.live_unavailable.labels(error.reason).inc()
            draft.unavailable["decoder"] = error.reason
            if draft.wanted.query is not None and not draft.items:
                draft.not_applied["q"] = error.reason
            return None

    async def _from_neighbors(self, draft: Draft) -> None:
        if not draft.history or not await self._anything_left(draft):
            return
        neighbors = draft.model.neighbors
        eligible = await draft.model.eligibility.items(draft.item_filter)
        with self._telemetry.stage("neighbors", draft.timings_ms):
            query = neighbors.query_of(draft.history)
            if draft.only is not None:
                found = await asyncio.to_thread(neighbors.in_order, query, draft.open_allowed())
            else:
                found = await asyncio.to_thread(
                    neighbors.search, query, draft.missing, eligible, draft.hidden, draft.quota
                )
        draft.add(*found, "neighbors", "neighbors")

    async def _from_popular(self, draft: Draft) -> None:
        popular = draft.model.popular
        eligible = await draft.model.eligibility.items(draft.item_filter)
        with self._telemetry.stage("popular", draft.timings_ms):
            if draft.only is not None:
                found = popular.in_order(draft.open_allowed())
            elif draft.quota is None:
                found = popular.top(draft.missing, eligible.mask, draft.hidden)
            elif await self._anything_left(draft):
                # A cap may have it look through the whole catalogue.
                found = await asyncio.to_thread(popular.top, draft.missing, eligible.mask, draft.hidden, draft.quota)
            else:
                return
        draft.add(*found, "popular", "popular")

    async def _anything_left(self, draft: Draft) -> bool:
        """Whether an item that may be shown is not in the list yet, and has a place in it."""
        return await self._over_all_items(draft, draft.anything_left)

    async def _over_all_items(self, draft: Draft, ask: Callable[[EligibleItems], Answer]) -> Answer:
        eligible = await draft.model.eligibility.items(draft.item_filter)
        if draft.quota is None:
            return ask(eligible)
        # A pass over all prefixes: milliseconds for a million items, too long for the event loop.
        return await asyncio.to_thread(ask, eligible)

    def _makes_entry(self, draft: Draft) -> bool:
        """Whether the decode for this request serves every later one of the user too, and so is worth keeping."""
        wanted = draft.wanted
        return (
            wanted.user_id is not None
            and wanted.query is None
            and wanted.item_filter == EVERYTHING_IN_STOCK
            and not draft.excluded
            and draft.only is None
            and draft.quota is None
            and draft.needed <= self._settings.live_max_items
        )

    async def _decode_entry(self, draft: Draft) -> LiveAnswer:
        answer = await self._entries.decode(
            draft.model, draft.history, draft.withheld, draft.needed, self._deadline_ms(draft)
        )
        assert draft.wanted.user_id is not None
        self._write_back(draft, draft.wanted.user_id, answer)
        draft.renewed = True
        return answer

    async def _decode_gap(self, draft: Draft) -> LiveAnswer:
        if draft.only is not None:
            # So few are ranked by their exact scores; a beam could lose the best of them on the way.
            return await self._live.decode(self._request(draft, candidates=draft.open_allowed()))
        eligible = await draft.model.eligibility.items(draft.item_filter)
        everything = eligible.total == len(draft.model.catalog)
        return await self._live.decode(self._request(draft, eligible=None if everything else eligible))

    def _request(
        self, draft: Draft, *, eligible: EligibleItems | None = None, candidates: NDArray[np.int32] | None = None
    ) -> LiveRequest:
        quota = draft.quota
        # The decoder does not know what the list has of each prefix. Each item there can make one of its own too many,
        # and no more: as many as the whole list needs are enough, or all that there can be.
        wanted = draft.missing if quota is None else draft.needed
        return LiveRequest(
            version=draft.model.version,
            history=np.array(draft.history, dtype=np.int32),
            n=min(wanted, self._settings.live_max_items),
            beam_width=self._settings.beam_width,
            excluded=np.array(sorted(draft.hidden), dtype=np.int32),
            eligible=eligible,
            deadline_ms=self._deadline_ms(draft),
            query=draft.wanted.query,
            candidates=candidates,
            max_per_prefix=None if quota is None else min(quota.most, MAX_ITEMS),
            prefix_levels=1 if quota is None else quota.levels,
        )

    def _deadline_ms(self, draft: Draft) -> int:
        """What is left of the time for live decoding, of which one request may need two."""
        return max(self._settings.live_deadline_ms - int(draft.timings_ms.get("live", 0.0)), 1)

    def _write_back(self, draft: Draft, user_id: str, answer: LiveAnswer) -> None:
        async def write() -> None:
            try:
                await self._entries.keep(draft.model, user_id, draft.state.history, answer, draft.now)
            except CacheUnavailable:
                # Counted where it was raised. The answer is on its way; the next request decodes again.
                return

        task = asyncio.create_task(write(), name="write-back")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
