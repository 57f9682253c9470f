"""For load balancers: is the process alive, and should it get requests."""

import asyncio

from app.dependencies import CurrentServices, NoQuery, Services
from app.json_response import Json
from app.problems import responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from app.schemas import Dependency, Liveness, Readiness

router = Router(prefix="/health", tags=["health"], responses=responses())

_DECODER_TIMEOUT_S = 1.0


@router.get("/live", responses={200: {"model": Liveness}})
async def live(query: NoQuery) -> Json:
    """The process answers. Asks nobody else."""
    return Json({"status": "ok"})


@router.get("/ready", responses={200: {"model": Readiness}})
async def ready(query: NoQuery, services: CurrentServices) -> Json:
    """Each dependency by name.

    Always a 200 once the server has started: it starts with a model, and with a model popular items can be given
    whatever else is away. `status` tells whether something is.
    """
    return Json((await readiness(services)).model_dump())


async def readiness(services: Services) -> Readiness:
    """Ask each dependency."""
    dependencies = {
        "model": Dependency(ok=True),
        "redis": await _redis(services),
        "decoder": await _decoder(services),
    }
    degraded = any(part.configured and not part.ok for part in dependencies.values())
    return Readiness(
        status="degraded" if degraded else "ready",
        model_version=services.active.served.version,
        dependencies=dependencies,
    )


async def _redis(services: Services) -> Dependency:
    try:
        await services.cache.ping()
    except CacheUnavailable as error:
        return Dependency(ok=False, detail=str(error))
    return Dependency(ok=True)


async def _decoder(services: Services) -> Dependency:
    if not services.live.configured:
        return Dependency(ok=False, configured=False, detail="this deployment has no decoder")
    try:
        async with asyncio.timeout(_DECODER_TIMEOUT_S):
            ok = await services.live.ready()
    except TimeoutError:
        ok = False
    return Dependency(ok=ok, detail=None if ok else "the decoder does not answer, or is not ready")
