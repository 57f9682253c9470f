"""Decoding a user's whole list live, and keeping it: what misses and background refreshes have in common."""

import numpy as np

from app.eligibility import EVERYTHING_IN_STOCK
from app.freshness import Freshness
from app.live_decoding import LiveAnswer, LiveDecoding, LiveRequest
from app.recommendation_cache import RecommendationCache
from app.served_model import ServedModel
from app.settings import Settings
from model_store.cache_entries import GENERATORS, CacheEntry, history_digest


class EntryDecoding:
    """Makes entries that any later request of the user can be answered from.

    So they know no filter but stock, and leave out nothing but what the user has seen, or is not to see.
    """

    def __init__(
        self, live: LiveDecoding, cache: RecommendationCache, freshness: Freshness, settings: Settings
    ) -> None:
        self._live = live
        self._cache = cache
        self._freshness = freshness
        self._settings = settings

    async def decode(
        self, model: ServedModel, history: list[int], withheld: list[int], at_least: int, deadline_ms: int
    ) -> LiveAnswer:
        """Decode a list.

        Args:
            model: the version to decode with.
            history: item indices, oldest first, at least one; left out of the list.
            withheld: item indices that are left out too.
            at_least: items the caller needs; a beam's worth is asked for, because it costs no more.
            deadline_ms: how long the caller waits.

        Raises:
            LiveDecodingUnavailable: no answer within the deadline.
        """
        eligible = await model.eligibility.items(EVERYTHING_IN_STOCK)
        seen = np.array(history, dtype=np.int32)
        return await self._live.decode(
            LiveRequest(
                version=model.version,
                history=seen,
                n=min(max(at_least, self._settings.beam_width), self._settings.live_max_items),
                beam_width=self._settings.beam_width,
                excluded=np.array(sorted({*history, *withheld}), dtype=np.int32),
                eligible=None if eligible.total == len(model.catalog) else eligible,
                deadline_ms=deadline_ms,
            )
        )

    async def keep(
        self, model: ServedModel, user_id: str, history: tuple[str, ...], answer: LiveAnswer, started_at: float
    ) -> None:
        """Write a decoded list back.

        Args:
            model: the version that decoded it.
            user_id: whose it is.
            history: item ids it was decoded from, as read from Redis.
            answer: the list.
            started_at: when the history was read, Unix seconds.

        Raises:
            CacheUnavailable: it could not be written.
        """
        entry = CacheEntry(
            codes_KL=np.ascontiguousarray(model.bundle.item_codes.codes_NL[answer.items]),
            scores=answer.scores.astype(np.float16),
            history_digest=history_digest(item.encode() for item in history),
            decoded_at=int(started_at),
            generator=answer.generator if answer.generator in GENERATORS else GENERATORS[0],
        )
        await self._cache.store(model.entry_layout, user_id, entry, history)
        self._freshness.satisfied(user_id)
