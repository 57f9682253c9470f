"""Recommendations for a user, a session, or many users."""

from typing import Annotated

from fastapi import Depends, Query, Request

from app.dependencies import CurrentServices, NoQuery, PathId, check_query, check_write_back, require
from app.event_problems import NotAReadType
from app.json_response import Json
from app.problems import QueryNotSupported, responses
from app.recommendation import ExplainedRecommendation, Recommendation
from app.request_boundary import SOURCE
from app.routers import Router
from app.scenarios import FixedByScenario, UnknownScenario
from app.schemas import BatchAnswer, BatchBody, RecommendBody, RecommendParameters

router = Router(
    tags=["recommendations"],
    dependencies=[Depends(require("read"))],
    responses=responses(NotAReadType, UnknownScenario, FixedByScenario, QueryNotSupported),
)


@router.get("/recommend/{user_id:path}", responses={200: {"model": Recommendation | ExplainedRecommendation}})
async def recommend_to_user(
    user_id: PathId, asked: Annotated[RecommendParameters, Query()], request: Request, services: CurrentServices
) -> Json:
    """Recommend items to a user. A user nobody has heard of gets popular items, or what a query asks for."""
    # FastAPI hands a model of query parameters their defaults as if they had been sent.
    asked = services.scenarios.applied(asked, request.query_params.keys())
    check_query(asked.q, services)
    check_write_back(asked.write_back_type, services)
    answer = await services.recommender.recommend(asked.wanted(user_id=user_id))
    request.scope[SOURCE] = answer.source
    return Json(answer)


@router.post("/recommend", responses={200: {"model": Recommendation | ExplainedRecommendation}})
async def recommend(asked: RecommendBody, query: NoQuery, request: Request, services: CurrentServices) -> Json:
    """Recommend items to a user, to an anonymous session given as its history of item ids, or for a query alone."""
    asked = services.scenarios.applied(asked, asked.model_fields_set)
    check_query(asked.q, services)
    check_write_back(asked.write_back_type, services)
    answer = await services.recommender.recommend(asked.wanted(user_id=asked.user_id, history=asked.history or ()))
    request.scope[SOURCE] = answer.source
    return Json(answer)


@router.post("/recommend/batch", responses={200: {"model": BatchAnswer}})
async def recommend_to_users(asked: BatchBody, query: NoQuery, services: CurrentServices) -> Json:
    """Recommend items to up to 100 users, in one round trip to the cache."""
    asked = services.scenarios.applied(asked, asked.model_fields_set)
    check_query(asked.q, services)
    check_write_back(asked.write_back_type, services)
    answers = await services.recommender.recommend_many([asked.wanted(user_id=user_id) for user_id in asked.user_ids])
    return Json({"answers": answers})
