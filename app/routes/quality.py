"""How good the recommendations were, by what users did with them."""

from typing import Annotated

from fastapi import Depends, Query
from pydantic import Field

from app.dependencies import CurrentServices, require
from app.json_response import Json
from app.problems import StorageUnavailable, responses
from app.quality import MAX_DAYS, QualityAnswer, quality_of_days
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.schemas import Asked

router = Router(tags=["metrics"], dependencies=[Depends(require("read"))])


class QualityParameters(Asked):
    """Which days."""

    days: int = Field(default=7, ge=1, le=MAX_DAYS, description="Days to show, today included.")


@router.get("/quality", responses={200: {"model": QualityAnswer}, **responses(StorageUnavailable)})
async def quality(asked: Annotated[QualityParameters, Query()], services: CurrentServices) -> Json:
    """Recommended items and those that got an event, by day, source and model version, of all workers.

    An event counts that names the `recommendation_id` of an answer with its item, within TESSERA_ATTRIBUTION_WINDOW_S,
    once for each item of an answer. Events of a read type do not.
    """
    try:
        days = await quality_of_days(services.cache, asked.days)
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and the counts are in it; try again.") from None
    return Json(QualityAnswer(days=days).model_dump())
