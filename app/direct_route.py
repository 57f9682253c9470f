"""GET /recommend/{user_id} without FastAPI's machinery, which takes longer than a cached answer.

The route itself is `app.routes.recommendations.recommend_to_user`: it is in the OpenAPI document, and whatever is not a
valid request for it goes there, so that every refusal is FastAPI's. Parameters are read here by the same model.
"""

import re
from functools import lru_cache
from typing import Final, cast

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access import admit
from app.dependencies import Services, check_query
from app.problems import Problem, render
from app.recommendation import Wanted
from app.request_boundary import JSON_ANSWER, SOURCE
from app.routes.recommendations import recommend_to_user, router
from app.scenarios import NO_SCENARIOS, Scenarios
from app.schemas import RecommendParameters

_PREFIX: Final = "/recommend/"
_ID = re.compile(r"[^\x00-\x1f\x7f\ufffd]{1,256}")
_SEQUENCES: Final = ("category", "exclude", "only")
_MAX_QUERY_KEPT = 256
_ROUTE: Final = next(route for route in router.routes if getattr(route, "endpoint", None) is recommend_to_user)


class DirectRoute:
    """Wraps an ASGI application, whose `state.services` answer. What it answers, `app.request_boundary` sends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(_PREFIX):
            await self._app(scope, receive, send)
            return
        services = cast(Services, scope["app"].state.services)
        user_id = scope["path"][len(_PREFIX) :]
        wanted = read_parameters(scope["query_string"], services.scenarios)
        if wanted is None or not _ID.fullmatch(user_id) or scope.get("root_path"):
            await self._app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        try:
            admit(scope, "read")
            check_query(wanted.query, services)
        except Problem as problem:
            await render(problem, scope.get("request_id"))(scope, receive, send)
            return
        scope[SOURCE], scope[JSON_ANSWER] = await services.recommender.answer(user_id, wanted)


def read_parameters(query: bytes, scenarios: Scenarios = NO_SCENARIOS) -> Wanted | None:
    """The request that a query string makes, for no user yet; None where it is not valid."""
    return _kept_parse(query, scenarios) if len(query) <= _MAX_QUERY_KEPT else _parse(query, scenarios)


def _parse(query: bytes, scenarios: Scenarios) -> Wanted | None:
    parameters = QueryParams(query)
    if "write_back_type" in parameters:
        # Whether it is one that the server takes is asked in the route.
        return None
    values = {name: parameters.getlist(name) if name in _SEQUENCES else parameters[name] for name in parameters}
    try:
        asked = RecommendParameters.model_validate(values)
        return scenarios.applied(asked, asked.model_fields_set).wanted()
    except (ValidationError, RequestValidationError, Problem):
        return None


_kept_parse = lru_cache(maxsize=1024)(_parse)
