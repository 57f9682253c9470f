"""The common answer in one go: from what Redis has of a user to the bytes of the response.

It says what `app.draft` would say of the same request, field by field (a property test compares the two), and does not
build the parts between. Where anything is out of the ordinary it gives no answer, and the recommender takes over.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

import numpy as np
import orjson

from app.eligibility import EVERYTHING_IN_STOCK, ItemFilter
from app.items_by_code import KnownItem
from app.recommendation import Source, Wanted
from app.recommendation_ids import next_recommendation_id
from app.served_model import ServedModel
from app.user_state import StoredUser
from model_store.cache_entries import PlainEntry, history_digest
from model_store.errors import CacheEntryUnreadable


class CachedAnswer(NamedTuple):
    """An answer from a user's entry alone.

    Attributes:
        recommendation_id: the answer's.
        body: the response.
        item_ids: of the page, best first.
        source: `cache` or `stale_cache`.
        age_s: of the entry.
        known: whether an item of the user's history is in the catalogue.
    """

    recommendation_id: str
    body: bytes
    item_ids: list[str]
    source: Source
    age_s: float
    known: bool


def is_simple(wanted: Wanted) -> bool:
    """Whether an entry can be the whole answer to such a request."""
    return (
        not wanted.history
        and wanted.only is None
        and wanted.max_per_prefix is None
        and wanted.query is None
        and wanted.within is None
        and not wanted.explain
    )


def cached_answer(
    model: ServedModel, user_id: str, wanted: Wanted, stored: StoredUser, max_age_s: float, now: float
) -> CachedAnswer | None:
    """Answer a simple request from the user's entry.

    Args:
        model: the version to answer with.
        user_id: who is answered.
        wanted: the request; its `user_id` is not looked at.
        stored: what Redis has of the user.
        max_age_s: age from which the entry counts as stale.
        now: Unix seconds.

    Returns:
        None where there is no entry that can be read, too few of its items may be shown, or a decode is asked for.
    """
    if stored.packed is None:
        return None
    try:
        entry = PlainEntry.unpack(stored.packed)
    except CacheEntryUnreadable:
        return None
    history, needed = stored.history, wanted.offset + wanted.n
    age_s = max(now - entry.decoded_at, 0.0)
    stale = age_s > max_age_s or (bool(history) and entry.history_digest != history_digest(history))
    if stale and wanted.fresh:
        return None
    hidden = set(history)
    hidden.update(stored.withheld)
    if wanted.exclude:
        hidden.update(item.encode() for item in wanted.exclude)
    best = _best(model, entry, hidden, wanted.item_filter, needed)
    if best is None:
        return None
    source: Source = "stale_cache" if stale else "cache"
    recommendation_id = next_recommendation_id()
    page = best[wanted.offset :]
    body = orjson.dumps(
        {
            "recommendation_id": recommendation_id,
            "user_id": user_id,
            "items": [
                {"item_id": item_id, "rank": rank, "score": score, "code": code, "reason": "cache"}
                for rank, ((_, item_id, _, code), score) in enumerate(page, wanted.offset + 1)
            ],
            "source": source,
            "model_version": model.version,
            "generated_at": _time_text(now - age_s),
            "age_s": round(age_s, 3),
            "degraded": False,
            "shortfall_reason": None,
            "not_applied": {},
        }
    )
    item_ids = [item_id for (_, item_id, _, _), _ in page]
    return CachedAnswer(recommendation_id, body, item_ids, source, age_s, _any_known(model, history))


def _best(
    model: ServedModel, entry: PlainEntry, hidden: set[bytes], item_filter: ItemFilter, needed: int
) -> list[tuple[KnownItem, float]] | None:
    """The first `needed` items of the entry that may be shown, None where there are fewer or that is not certain."""
    if len(set(entry.codes)) < len(entry.codes):
        return None
    # Mostly the first are enough; what need not be looked at is not.
    unseen = _unseen(model, entry.codes[:needed], entry.scores[:needed], hidden)
    if unseen is not None and len(unseen) == needed and all(_allowed(model, unseen, item_filter)):
        return unseen
    unseen = _unseen(model, entry.codes, entry.scores, hidden)
    if unseen is None or len(unseen) < needed:
        return None
    best = list(compress(unseen, _allowed(model, unseen, item_filter)))[:needed]
    return best if len(best) == needed else None


def _unseen(
    model: ServedModel, codes: Sequence[int], scores: Sequence[float], hidden: set[bytes]
) -> list[tuple[KnownItem, float]] | None:
    """The items of codes that are known and not hidden, each with its score; None where that is uncertain."""
    items = model.items_by_code.of(codes)
    if items is None:
        return None
    return [
        (item, score) for item, score in zip(items, scores, strict=True) if item is not None and item[2] not in hidden
    ]


def _allowed(model: ServedModel, items: list[tuple[KnownItem, float]], item_filter: ItemFilter) -> list[bool]:
    """Which of these items the catalogue-wide filter lets through."""
    if item_filter == EVERYTHING_IN_STOCK:
        in_stock = model.eligibility.in_stock
        return [in_stock[item[0]] for item, _ in items]
    rows = np.array([item[0] for item, _ in items], dtype=np.intp)
    allowed: list[bool] = model.eligibility.allowed(item_filter, rows).tolist()
    return allowed


def _any_known(model: ServedModel, history: list[bytes]) -> bool:
    # The newest is nearly always in the catalogue.
    return any(item.decode(errors="replace") in model.catalog for item in reversed(history))


@lru_cache(maxsize=4096)
def _time_text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
