"""Gorse's calls for lists of items, by the functions of our own `/recommend`, `/popular`, `/latest` and `/similar`."""

from typing import Annotated

from fastapi import Depends, Header, Query, Request

from app.dependencies import CurrentModel, CurrentServices, PathId, Services, check_write_back, require
from app.event_problems import NotAReadType
from app.gorse.addresses import PREFIX, TAGS
from app.gorse.answers import scores
from app.gorse.schemas import (
    CategoryPath,
    ItemScoresParameters,
    NonPersonalized,
    RecommendationParameters,
    Score,
    ScoresParameters,
    SessionFeedbacks,
)
from app.item_lists import latest_items, popular_items, similar_items
from app.json_response import Json
from app.problems import ItemNotFound, responses
from app.recommendation import Wanted
from app.request_boundary import SOURCE
from app.routers import Router
from app.routes.items import hidden_from, similar_to
from app.served_model import ServedModel

router = Router(prefix=PREFIX, tags=TAGS, dependencies=[Depends(require("read"))])

_SCORES = {200: {"model": list[Score]}, **responses()}
_NEIGHBORS = {200: {"model": list[Score]}, **responses(ItemNotFound)}
_RECOMMENDED = {200: {"model": list[str] | list[Score]}, **responses(NotAReadType)}

ApiVersion = Annotated[
    str | None, Header(alias="X-API-Version", description="2 for items with scores, anything else for bare ids.")
]
ItemQuery = Annotated[ItemScoresParameters, Query()]


@router.get("/recommend/{user_id}", responses=_RECOMMENDED)
async def gorse_recommend(
    user_id: PathId,
    asked: Annotated[RecommendationParameters, Query()],
    request: Request,
    services: CurrentServices,
    api_version: ApiVersion = None,
) -> Json:
    """Recommend items to a user: `GET /recommend/{user_id}` in Gorse's names."""
    return await _recommend(user_id, "", asked, request, services, api_version)


@router.get("/recommend/{user_id}/{category:path}", responses=_RECOMMENDED)
async def gorse_recommend_in_category(
    user_id: PathId,
    category: CategoryPath,
    asked: Annotated[RecommendationParameters, Query()],
    request: Request,
    services: CurrentServices,
    api_version: ApiVersion = None,
) -> Json:
    """Recommend items of a category to a user."""
    return await _recommend(user_id, category, asked, request, services, api_version)


@router.post("/session/recommend", responses=_SCORES)
async def gorse_recommend_to_session(
    feedback: SessionFeedbacks,
    asked: Annotated[ScoresParameters, Query()],
    request: Request,
    services: CurrentServices,
) -> Json:
    """Recommend items to somebody without a name, by what the session has done."""
    return await _recommend_to_session(feedback, "", asked, request, services)


@router.post("/session/recommend/{category:path}", responses=_SCORES)
async def gorse_recommend_to_session_in_category(
    feedback: SessionFeedbacks,
    category: CategoryPath,
    asked: Annotated[ScoresParameters, Query()],
    request: Request,
    services: CurrentServices,
) -> Json:
    """Recommend items of a category to somebody without a name."""
    return await _recommend_to_session(feedback, category, asked, request, services)


@router.get("/popular", responses=_SCORES)
async def gorse_popular(asked: ItemQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """The most popular items, of all time."""
    return await _not_personal("popular", "", asked, model, services)


@router.get("/popular/{category:path}", responses=_SCORES)
async def gorse_popular_in_category(
    category: CategoryPath, asked: ItemQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """The most popular items of a category."""
    return await _not_personal("popular", category, asked, model, services)


@router.get("/latest", responses=_SCORES)
async def gorse_latest(asked: ItemQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """The newest items."""
    return await _not_personal("latest", "", asked, model, services)


@router.get("/latest/{category:path}", responses=_SCORES)
async def gorse_latest_in_category(
    category: CategoryPath, asked: ItemQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """The newest items of a category."""
    return await _not_personal("latest", category, asked, model, services)


@router.get("/non-personalized/{leaderboard}", responses=_SCORES)
async def gorse_non_personalized(
    leaderboard: NonPersonalized, asked: ItemQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """The most popular or the newest items; there are no other lists of this kind."""
    return await _not_personal(leaderboard, "", asked, model, services)


@router.get("/item/{item_id}/neighbors", responses=_NEIGHBORS)
async def gorse_neighbors(item_id: PathId, asked: ItemQuery, model: CurrentModel, services: CurrentServices) -> Json:
    """Items near an item, the nearest first."""
    return await _neighbors(item_id, "", asked, model, services)


@router.get("/item/{item_id}/neighbors/{category:path}", responses=_NEIGHBORS)
async def gorse_neighbors_in_category(
    item_id: PathId, category: CategoryPath, asked: ItemQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """Items of a category near an item."""
    return await _neighbors(item_id, category, asked, model, services)


@router.get("/item-to-item/{recommender}/{item_id}", responses=_NEIGHBORS)
async def gorse_item_to_item(
    recommender: PathId, item_id: PathId, asked: ItemQuery, model: CurrentModel, services: CurrentServices
) -> Json:
    """Items near an item. There is one kind of nearness, whatever the name of the recommender."""
    return await _neighbors(item_id, "", asked, model, services)


async def _recommend(
    user_id: str,
    category: str,
    asked: RecommendationParameters,
    request: Request,
    services: Services,
    api_version: str | None,
) -> Json:
    check_write_back(asked.write_back_type, services)
    wanted = Wanted(
        user_id=user_id,
        n=asked.n,
        offset=asked.offset,
        item_filter=asked.item_filter(category),
        write_back_after_s=asked.read_after_s(),
    )
    answer = await services.recommender.recommend(wanted)
    request.scope[SOURCE] = answer.source
    return scores(answer.items) if api_version == "2" else Json([item.item_id for item in answer.items])


async def _recommend_to_session(
    feedback: SessionFeedbacks, category: str, asked: ScoresParameters, request: Request, services: Services
) -> Json:
    reads = services.settings.types_of_reads
    # As with events, what has no time happened last; the sort keeps the order of equal times.
    ordered = sorted(feedback, key=lambda one: one.seconds())
    wanted = Wanted(
        history=tuple(one.item_id for one in ordered if one.feedback_type not in reads),
        n=asked.n,
        offset=asked.offset,
        item_filter=asked.item_filter(category),
        exclude=tuple(one.item_id for one in ordered if one.feedback_type in reads),
    )
    answer = await services.recommender.recommend(wanted)
    request.scope[SOURCE] = answer.source
    return scores(answer.items)


async def _not_personal(
    leaderboard: NonPersonalized, category: str, asked: ItemScoresParameters, model: ServedModel, services: Services
) -> Json:
    hidden, _ = await hidden_from(asked.user_id, (), model, services)
    item_filter = asked.item_filter(category)
    if leaderboard == "popular":
        return scores(await popular_items(model, model.popular, asked.n, asked.offset, item_filter, hidden))
    return scores(await latest_items(model, asked.n, asked.offset, item_filter, hidden))


async def _neighbors(
    item_id: str, category: str, asked: ItemScoresParameters, model: ServedModel, services: Services
) -> Json:
    item = similar_to(item_id, model, services)
    hidden, _ = await hidden_from(asked.user_id, (), model, services)
    return scores(await similar_items(model, item, asked.n, asked.offset, asked.item_filter(category), hidden))
