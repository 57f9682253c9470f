"""Refreshes on demand: asked for here, done by `tessera worker`."""

import asyncio
from typing import Annotated

from fastapi import Depends, Path

from app.admin_problems import ModelNotFound, NoRefreshWorker, RefreshNotFound, RefreshQueueFull
from app.admin_schemas import RefreshBody, RefreshJobAnswer, RefreshJobsAnswer
from app.dependencies import CurrentServices, NoQuery, require
from app.json_response import Json
from app.overview import job_fields
from app.problems import StorageUnavailable, responses
from app.recommendation_cache import CacheUnavailable
from app.routers import Router
from model_store.errors import TesseraError
from model_store.refresh_jobs import RefreshOrder

router = Router(prefix="/refresh", tags=["refresh"], dependencies=[Depends(require("admin"))])

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]
_LISTED = 20


@router.post(
    "",
    status_code=202,
    responses={
        202: {"model": RefreshJobAnswer},
        **responses(ModelNotFound, RefreshQueueFull, NoRefreshWorker, StorageUnavailable),
    },
)
async def ask_for_refresh(asked: RefreshBody, query: NoQuery, services: CurrentServices) -> Json:
    """Have users' lists decoded anew. Answered at once; GET /refresh/{id} tells how it goes."""
    version = asked.version if asked.version is not None else services.active.served.version
    try:
        await asyncio.to_thread(services.store.manifest, version)
    except TesseraError:
        raise ModelNotFound from None
    users = None if asked.users is None else tuple(dict.fromkeys(asked.users))
    order = RefreshOrder(
        mode=asked.mode,
        version=version,
        budget_users=asked.budget_users,
        budget_s=asked.budget_s,
        users=None if users is None else len(users),
    )
    try:
        return Json(job_fields(await services.refresh_jobs.submit(order, users)), 202)
    except CacheUnavailable:
        raise StorageUnavailable from None


@router.get("", responses={200: {"model": RefreshJobsAnswer}, **responses(StorageUnavailable)})
async def newest_refreshes(query: NoQuery, services: CurrentServices) -> Json:
    """The newest refreshes that were asked for."""
    try:
        jobs = await services.refresh_jobs.newest(_LISTED)
        worker = await services.refresh_jobs.worker_is_there()
    except CacheUnavailable:
        raise StorageUnavailable from None
    return Json({"worker": worker, "jobs": [job_fields(job) for job in jobs]})


@router.get("/{job_id}", responses={200: {"model": RefreshJobAnswer}, **responses(RefreshNotFound, StorageUnavailable)})
async def show_refresh(job_id: JobId, query: NoQuery, services: CurrentServices) -> Json:
    """How one refresh goes."""
    try:
        return Json(job_fields(await services.refresh_jobs.get(job_id)))
    except CacheUnavailable:
        raise StorageUnavailable from None


@router.delete(
    "/{job_id}", responses={200: {"model": RefreshJobAnswer}, **responses(RefreshNotFound, StorageUnavailable)}
)
async def cancel_refresh(job_id: JobId, query: NoQuery, services: CurrentServices) -> Json:
    """Cancel a refresh: lists that are written stay. One that has ended stays as it is."""
    try:
        return Json(job_fields(await services.refresh_jobs.cancel(job_id)))
    except CacheUnavailable:
        raise StorageUnavailable from None
