"""Which model version is served."""

from fastapi import Depends

from app.activation import activate
from app.admin_problems import ModelNotFound, ModelUnusable, NoEarlierModel, StoreReadOnly
from app.admin_schemas import ActivateAnswer
from app.dependencies import CurrentServices, NoQuery, PathId, Services, require
from app.json_response import Json
from app.problems import StorageUnavailable, responses
from app.routers import Router

router = Router(prefix="/models", tags=["models"], dependencies=[Depends(require("admin"))])


@router.post(
    "/rollback",
    responses={
        200: {"model": ActivateAnswer},
        **responses(NoEarlierModel, ModelUnusable, StoreReadOnly, StorageUnavailable),
    },
)
async def roll_back(query: NoQuery, services: CurrentServices) -> Json:
    """Serve the version that was active before."""
    return await _serve(services, None)


@router.post(
    "/{version}/activate",
    responses={
        200: {"model": ActivateAnswer},
        **responses(ModelNotFound, ModelUnusable, StoreReadOnly, StorageUnavailable),
    },
)
async def activate_version(version: PathId, query: NoQuery, services: CurrentServices) -> Json:
    """Serve a version, after every file of it was compared with its manifest. Workers follow within a second."""
    return await _serve(services, version)


async def _serve(services: Services, version: str | None) -> Json:
    done = await activate(services.store, services.cache, services.active, version)
    warning = None
    if done.cached_lists == 0:
        warning = f"No list of {done.version} is cached: users are decoded live until it is refreshed."
    answer = ActivateAnswer(
        version=done.version,
        before=done.before,
        cached_lists=done.cached_lists,
        cached_lists_estimated=done.cached_lists_estimated,
        warning=warning,
    )
    return Json(answer.model_dump())
