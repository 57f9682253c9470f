"""Ranking items that the caller chose, by the model's exact score of each."""

import numpy as np
from fastapi import APIRouter, Depends

from app.dependencies import CurrentServices, NoQuery, Services, check_query, require
from app.json_response import Json
from app.live_decoding import LiveDecodingUnavailable, LiveRequest
from app.problems import NothingToRankBy, QueryNotSupported, RankingUnavailable, StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.schemas import RankAnswer, RankBody, RankedCandidate
from app.served_model import ServedModel

router = APIRouter(tags=["ranking"], dependencies=[Depends(require("read"))])


@router.post(
    "/rank",
    responses={
        200: {"model": RankAnswer},
        **responses(NothingToRankBy, QueryNotSupported, RankingUnavailable, StorageUnavailable),
    },
)
async def rank(asked: RankBody, query: NoQuery, services: CurrentServices) -> Json:
    """Put items in the order in which a user, or an anonymous session, is likely to want them.

    Every item is ranked, seen and out-of-stock ones too. The scores are the model's own, so there is nothing to fall
    back on: without a decoder this is a 503.
    """
    check_query(asked.q, services)
    model = services.active.served
    history = model.indices_of(await _history(asked, services, model))
    if not history and asked.q is None:
        raise NothingToRankBy
    wanted = tuple(dict.fromkeys(asked.items))
    unknown = [item_id for item_id in wanted if item_id not in model.catalog]
    candidates = model.indices_of(wanted)
    items = await _ranked(asked, services, model, history, candidates) if candidates else []
    return Json(
        RankAnswer(user_id=asked.user_id, items=items, unknown=unknown, model_version=model.version).model_dump()
    )


async def _history(asked: RankBody, services: Services, model: ServedModel) -> tuple[str, ...]:
    if asked.user_id is None:
        return asked.history or ()
    try:
        return (await services.cache.read(model.entry_layout, asked.user_id)).history
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and the user's history is in it; try again.") from None


async def _ranked(
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
        services.telemetry.live_unavailable.labels(error.reason).inc()
        raise RankingUnavailable(f"The decoder gave no answer ({error.reason}); try again.") from None
    order = answer.items.tolist()
    return [
        RankedCandidate(item_id=model.catalog.item_ids[item], rank=rank, score=score, code=code)
        for rank, (item, score, code) in enumerate(
            zip(order, answer.scores.tolist(), model.codes_of(order), strict=True), start=1
        )
    ]
