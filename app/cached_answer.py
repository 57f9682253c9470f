"""The common answer in one go: from what Redis has of a user to the bytes of the response.

It says what `app.draft` would say of the same request, field by field (a property test compares the two), and does not
build the parts between. Where anything is out of the ordinary it gives no answer, and the recommender takes over.
"""

import struct
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
    best = _first(model, entry, stored, wanted, needed) or _best(model, entry, stored, wanted, needed)
    if best is None:
        return None
    source: Source = "stale_cache" if stale else "cache"
    recommendation_id = next_recommendation_id()
    page = best[wanted.offset :] if wanted.offset else best
    body = _BODY % (
        recommendation_id.encode(),
        orjson.dumps(user_id),
        b",".join(
            [
                b"".join((item[3], rank, _SCORES[bits] or _score(bits), item[4]))
                for (item, bits), rank in zip(page, _ranks(wanted.offset, wanted.n), strict=True)
            ]
        ),
        source.encode(),
        orjson.dumps(model.version),
        _time_text(now - age_s),
        orjson.dumps(round(age_s, 3)),
    )
    item_ids = [item[1] for item, _ in page]
    return CachedAnswer(recommendation_id, body, item_ids, source, age_s, _any_known(model, history))


_BODY = (
    b'{"recommendation_id":"%b","user_id":%b,"items":[%b],"source":"%b","model_version":%b,"generated_at":"%b",'
    b'"age_s":%b,"degraded":false,"shortfall_reason":null,"not_applied":{}}'
)
_SCORES: list[bytes] = [b""] * (1 << 16)
"""The JSON of every score that was shown before, by its bits."""


def _score(bits: int) -> bytes:
    (score,) = _HALF.unpack(_BITS.pack(bits))
    text = _SCORES[bits] = orjson.dumps(score)
    return text


_HALF, _BITS = struct.Struct("<e"), struct.Struct("<H")


@lru_cache(maxsize=256)
def _ranks(offset: int, n: int) -> tuple[bytes, ...]:
    """What stands between an item and its score: its rank."""
    return tuple(b'%d,"score":' % rank for rank in range(offset + 1, offset + n + 1))


def _first(
    model: ServedModel, entry: PlainEntry, stored: StoredUser, wanted: Wanted, needed: int
) -> list[tuple[KnownItem, int]] | None:
    """The first `needed` items of the entry, if all of them may be shown to everybody and to this user: mostly so."""
    if wanted.exclude or wanted.item_filter != EVERYTHING_IN_STOCK:
        return None
    items = model.items_by_code.of(entry.codes[:needed])
    if items is None or len(items) < needed:
        return None
    known = [item for item in items if item is not None]
    shown = {item[2] for item in known}
    if len(shown) < needed or not (shown.isdisjoint(stored.history) and shown.isdisjoint(stored.withheld)):
        return None
    in_stock = model.eligibility.in_stock
    if False in [in_stock[item[0]] for item in known]:
        return None
    return list(zip(known, entry.score_bits, strict=False))


def _best(
    model: ServedModel, entry: PlainEntry, stored: StoredUser, wanted: Wanted, needed: int
) -> list[tuple[KnownItem, int]] | None:
    """The first `needed` items of the entry that may be shown, None where there are fewer or that is not certain."""
    if len(set(entry.codes)) < len(entry.codes) or (items := model.items_by_code.of(entry.codes)) is None:
        return None
    hidden = {*stored.history, *stored.withheld, *(item.encode() for item in wanted.exclude)}
    unseen = [
        (item, bits)
        for item, bits in zip(items, entry.score_bits, strict=True)
        if item is not None and item[2] not in hidden
    ]
    best = list(compress(unseen, _allowed(model, unseen, wanted.item_filter)))[:needed]
    return best if len(best) == needed else None


def _allowed(model: ServedModel, items: list[tuple[KnownItem, int]], item_filter: ItemFilter) -> list[bool]:
    """Which of these items the catalogue-wide filter lets through."""
    if item_filter == EVERYTHING_IN_STOCK:
        in_stock = model.eligibility.in_stock
        return [in_stock[item[0]] for item, _ in items]
    rows = np.array([item[0] for item, _ in items], dtype=np.intp)
    allowed: list[bool] = model.eligibility.allowed(item_filter, rows).tolist()
    return allowed


def _any_known(model: ServedModel, history: list[bytes]) -> bool:
    # The newest is nearly always in the catalogue.
    if history and history[-1].decode(errors="replace") in model.catalog:
        return True
    return any(item.decode(errors="replace") in model.catalog for item in reversed(history))


@lru_cache(maxsize=4096)
def _time_text(seconds: float) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").encode()
