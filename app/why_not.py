"""Why an item is not in a user's list: a rule removes it, or others are likelier, and by how much."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.dependencies import Services
from app.draft import Draft
from app.live_decoding import LiveDecodingUnavailable, LiveRequest
from app.recommendation import Wanted
from app.served_model import ServedModel

Verdict = Literal["recommended", "removed", "outranked"]


@dataclass(frozen=True)
class WhyNot:
    """What is known of an item beside the list a user gets.

    Attributes:
        verdict: recommended, it is in the list; removed, a rule keeps it out; outranked, nothing does but other items.
        removed_by: all rules that keep it out.
        rank: its place in the list, None when it is not there.
        cached_rank: its place in the cached entry before any rule, None when it is not there.
        cached_items: items of the entry, 0 without one.
        score: the model's exact log-probability of its code for this user, None when the decoder gave none.
        last_score: the same of the list's last item.
        score_unavailable: why there are no scores: no_history, or the live decode's trouble.
        shared_codes: leading codes that it has in common with the item of the list it is most like.
        outranked_at_level: the first level, from 1, on which the whole list has other codes than it; None for an item
            of the list, or beside an empty one.
    """

    user_id: str
    item_id: str
    code: str
    model_version: str
    source: str
    verdict: Verdict
    removed_by: list[str]
    rank: int | None
    cached_rank: int | None
    cached_items: int
    score: float | None
    last_score: float | None
    score_unavailable: str | None
    shared_codes: int
    outranked_at_level: int | None


async def why_not(services: Services, model: ServedModel, item: int, wanted: Wanted) -> WhyNot:
    """Explain an item beside the list that a user would get now.

    Args:
        services: of the application.
        model: the served version, whose catalogue `item` is an index of.
        item: the item that was missed.
        wanted: the list it was missed in, of a known user.

    Raises:
        CacheUnavailable: the user's history and entry cannot be read.
    """
    assert wanted.user_id is not None
    state = await services.cache.read(model.entry_layout, wanted.user_id)
    answer = await services.recommender.recommend(wanted)
    draft = Draft(model, wanted, state, services.settings.cache_max_age_s)
    removed_by = [rule for rule, removed in draft.removed_by(np.array([item])).items() if removed[0]]
    listed = model.indices_of(one.item_id for one in answer.items)
    rank = listed.index(item) + 1 if item in listed else None
    cached = [] if state.entry is None else model.items_of_codes(state.entry.codes_KL).tolist()
    try:
        scores = await _scores(services, model, draft.history, [item, *listed])
        trouble = None
    except LiveDecodingUnavailable as error:
        scores, trouble = {}, error.reason
    shared = _shared_codes(model, item, [other for other in listed if other != item])
    return WhyNot(
        user_id=wanted.user_id,
        item_id=model.catalog.item_ids[item],
        code=model.codes_of([item])[0],
        model_version=model.version,
        source=answer.source,
        verdict="recommended" if rank is not None else "removed" if removed_by else "outranked",
        removed_by=removed_by,
        rank=rank,
        cached_rank=cached.index(item) + 1 if item in cached else None,
        cached_items=len(cached),
        score=scores.get(item),
        last_score=scores.get(listed[-1]) if listed else None,
        score_unavailable=trouble,
        shared_codes=shared,
        outranked_at_level=None if rank is not None or not listed else shared + 1,
    )


async def _scores(
    services: Services, model: ServedModel, history: Sequence[int], items: Sequence[int]
) -> dict[int, float]:
    """The exact score of each item."""
    if not history:
        raise LiveDecodingUnavailable("no_history")
    candidates = np.unique(np.array(items, dtype=np.int32))
    answer = await services.live.decode(
        LiveRequest(
            version=model.version,
            history=np.array(history, dtype=np.int32),
            n=len(candidates),
            beam_width=services.settings.beam_width,
            excluded=np.empty(0, dtype=np.int32),
            eligible=None,
            deadline_ms=services.settings.live_deadline_ms,
            candidates=candidates,
        )
    )
    return dict(zip(answer.items.tolist(), answer.scores.tolist(), strict=True))


def _shared_codes(model: ServedModel, item: int, others: Sequence[int]) -> int:
    """The most leading codes that the item has in common with one of the others."""
    codes_NL = model.bundle.item_codes.codes_NL
    same = codes_NL[np.array(others, dtype=np.intp)] == codes_NL[item]
    return int(np.logical_and.accumulate(same, axis=1).sum(axis=1).max(initial=0))
