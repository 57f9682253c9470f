"""Gorse's health checks."""

from app.dependencies import CurrentServices, NoQuery, Services
from app.gorse.addresses import PREFIX, TAGS
from app.gorse.schemas import Health
from app.json_response import Json
from app.problems import responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router

router = Router(prefix=f"{PREFIX}/health", tags=TAGS, responses={200: {"model": Health}, **responses()})


@router.get("/live")
async def gorse_live(query: NoQuery, services: CurrentServices) -> Json:
    """The process answers, and whether Redis does."""
    return Json((await _health(services)).model_dump(by_alias=True))


@router.get("/ready")
async def gorse_ready(query: NoQuery, services: CurrentServices) -> Json:
    """Always a 200 and ready once the server has started: without Redis, popular items are given."""
    return Json((await _health(services)).model_dump(by_alias=True))


async def _health(services: Services) -> Health:
    error = None
    try:
        await services.cache.ping()
    except CacheUnavailable as unavailable:
        error = str(unavailable)
    return Health(
        ready=True,
        data_store_connected=error is None,
        cache_store_connected=error is None,
        data_store_error=error,
        cache_store_error=error,
    )
