"""Ranking items that the caller chose: by the served version's ranker, or by the model's exact score of each."""

from contextlib import suppress

import numpy as np
from fastapi import Depends

from app.dependencies import CurrentServices, NoQuery, Services, check_query, require
from app.item_views import WithheldReason, withheld_reason
from app.json_response import Json
from app.live_decoding import LiveDecodingUnavailable, LiveRequest
from app.problems import (
    NoRanker,
    NothingToRankBy,
    QueryNotSupported,
    RankingUnavailable,
    StorageUnavailable,
    TooManyToRank,
    responses,
)
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.schemas import RankAnswer, RankBody, RankedCandidate, WithheldItem
from app.served_model import ServedModel
from model_store.rankers.user_keys import user_key

router = Router(tags=["ranking"], dependencies=[Depends(require("read"))])


@router.post(
    "/rank",
    responses={
        200: {"model": RankAnswer},
        **responses(
            NothingToRankBy, NoRanker, TooManyToRank, QueryNotSupported, RankingUnavailable, StorageUnavailable
        ),
    },
)
async def rank(asked: RankBody, query: NoQuery, services: CurrentServices) -> Json:
    """Put items in the order in which a user, or an anonymous session, is likely to want them.

    Every item is ranked, seen ones too, but for those that must not be shown, which are listed under `withheld`. The
    scores are those of the version's ranker where it has one, which `ranker` names, else the model's own. There is
    nothing to fall back on: without a decoder this is a 503.
    """
    check_query(asked.q, services)
    model = services.active.served
    ranker = _ranker(asked, model)
    history = model.indices_of(await _history(asked, services, model))
    if not history and asked.q is None:
        raise NothingToRankBy
    wanted = tuple(dict.fromkeys(asked.items))
    withheld = _withheld(asked, services, model, wanted)
    candidates = model.indices_of(item_id for item_id in wanted if item_id not in withheld)
    if ranker is not None and len(candidates) > services.settings.ranker_max_items:
        raise TooManyToRank(
            f"The ranker is given at most {services.settings.ranker_max_items} items at once, these are "
            f"{len(candidates)}; send fewer, or by=codes."
        )
    score = _scored_by_codes if ranker is None else _scored_by_ranker
    items = await score(asked, services, model, history, candidates) if candidates else []
    # Again, because items may have changed while they were scored.
    withheld |= _withheld(asked, services, model, wanted)
    shown = [item for item in items if item.item_id not in withheld]
    answer = RankAnswer(
        user_id=asked.user_id,
        items=[item.model_copy(update={"rank": rank}) for rank, item in enumerate(shown, start=1)],
        unknown=[i for i in wanted if i not in withheld and i not in model.catalog],
        withheld=[WithheldItem(item_id=item_id, reason=reason) for item_id, reason in withheld.items()],
        model_version=model.version,
        ranker=ranker,
    )
    return Json(answer.model_dump())


def _ranker(asked: RankBody, model: ServedModel) -> str | None:
    """The ranker to ask; None for scores of codes.

    Raises:
        NoRanker: one was asked for, and there is none that could answer.
    """
    if asked.by == "ranker" and model.ranker is None:
        raise NoRanker
    if asked.by == "ranker" and asked.q is not None:
        raise NoRanker("Rankers read no query; leave out q or by.")
    return None if asked.by == "codes" or asked.q is not None else model.ranker


def _withheld(
    asked: RankBody, services: Services, model: ServedModel, item_ids: tuple[str, ...]
) -> dict[str, WithheldReason]:
    reasons = {item_id: withheld_reason(model, services.overlay, item_id, asked.in_stock) for item_id in item_ids}
    return {item_id: reason for item_id, reason in reasons.items() if reason is not None}


async def _history(asked: RankBody, services: Services, model: ServedModel) -> tuple[str, ...]:
    if asked.user_id is None:
        with suppress(CacheUnavailable):
            await services.item_log.sync()
        return asked.history or ()
    try:
        history = (await services.cache.read(model.entry_layout, asked.user_id)).history
        await services.item_log.catch_up()
        return history
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and the user's history is in it; try again.") from None


async def _scored_by_ranker(
    asked: RankBody, services: Services, model: ServedModel, history: list[int], candidates: list[int]
) -> list[RankedCandidate]:
    who = None if asked.user_id is None else user_key(asked.user_id)
    newest = history[-services.settings.history_length :]
    try:
        _, scores = await services.ranking.scores(model.version, newest, candidates, who)
    except LiveDecodingUnavailable as error:
        raise _unavailable(services, error) from None
    order = np.argsort(-scores, kind="stable")
    return _in_places(model, np.array(candidates)[order].tolist(), scores[order].tolist())


async def _scored_by_codes(
    asked: RankBody, services: Services, model: ServedModel, history: list[int], candidates: list[int]
) -> list[RankedCandidate]:
    settings = services.settings
    request = LiveRequest(
        version=model.version,
        history=np.array(history, dtype=np.int32),
        n=len(candidates),
        beam_width=settings.beam_width,
        excluded=np.empty(0, dtype=np.int32),
        eligible=None,
        deadline_ms=settings.live_deadline_ms,
        query=asked.q,
        candidates=np.array(candidates, dtype=np.int32),
    )
    try:
        answer = await services.live.decode(request)
    except LiveDecodingUnavailable as error:
        raise _unavailable(services, error) from None
    return _in_places(model, answer.items.tolist(), answer.scores.tolist())


def _unavailable(services: Services, error: LiveDecodingUnavailable) -> RankingUnavailable:
    services.telemetry.live_unavailable.labels(error.reason).inc()
    return RankingUnavailable(f"The decoder gave no answer ({error.reason}); try again.")


def _in_places(model: ServedModel, items: list[int], scores: list[float]) -> list[RankedCandidate]:
    rows = zip(items, scores, model.codes_of(items), strict=True)
    return [
        RankedCandidate(item_id=model.catalog.item_ids[item], rank=rank, score=score, code=code)
        for rank, (item, score, code) in enumerate(rows, start=1)
    ]
