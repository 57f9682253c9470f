"""Refreshes that callers ask for: queued in Redis for a worker, looked at, cancelled."""

import secrets
import time
from typing import Any

import orjson
from redis.asyncio.client import Pipeline

from app.admin_problems import NoRefreshWorker, RefreshNotFound, RefreshQueueFull
from app.recommendation_cache import RecommendationCache
from model_store.refresh_jobs import FIELDS, JOB_TTL_S, MAX_JOBS, MAX_QUEUED, RefreshJob, RefreshOrder


class RefreshJobs:
    """The API's side of the queue.

    Args:
        cache: where it is. Every method raises CacheUnavailable when Redis does not answer.
    """

    def __init__(self, cache: RecommendationCache) -> None:
        self._cache = cache
        self._keys = cache.keys

    async def worker_is_there(self) -> bool:
        """Whether a worker was heard of in the last seconds."""
        (beat,) = await self._cache.execute("jobs", lambda p: p.exists(self._keys.refresh_worker))
        return bool(beat)

    async def submit(self, order: RefreshOrder, users: tuple[str, ...] | None) -> RefreshJob:
        """Queue a refresh.

        Raises:
            NoRefreshWorker: nobody would do it.
            RefreshQueueFull: enough wait already.
            CacheUnavailable: it may be queued or not; `newest` tells.
        """
        if not await self.worker_is_there():
            raise NoRefreshWorker
        if sum(job.status == "queued" for job in await self.newest(MAX_JOBS)) >= MAX_QUEUED:
            raise RefreshQueueFull
        job_id = secrets.token_hex(8)
        key = self._keys.refresh_job(job_id)
        fields: dict[Any, Any] = {"order": order.model_dump_json(), "status": "queued", "created_at": str(time.time())}
        if users is not None:
            fields["users"] = orjson.dumps(users).decode()

        def describe(pipeline: Pipeline) -> None:
            pipeline.hset(key, mapping=fields)
            pipeline.expire(key, JOB_TTL_S)

        def enter(pipeline: Pipeline) -> None:
            pipeline.lpush(self._keys.refresh_jobs, job_id)
            pipeline.ltrim(self._keys.refresh_jobs, 0, MAX_JOBS - 1)
            pipeline.expire(self._keys.refresh_jobs, JOB_TTL_S)

        # One after the other: in a cluster a pipeline has no order between keys.
        await self._cache.execute("jobs", describe)
        await self._cache.execute("jobs", enter)
        return await self.get(job_id)

    async def get(self, job_id: str) -> RefreshJob:
        """One of them.

        Raises:
            RefreshNotFound: there is none of this id.
        """
        (job,) = await self._read([job_id])
        if job is None:
            raise RefreshNotFound
        return job

    async def newest(self, count: int) -> list[RefreshJob]:
        """The newest, those first."""
        (ids,) = await self._cache.execute("jobs", lambda p: p.lrange(self._keys.refresh_jobs, 0, count - 1))
        return [job for job in await self._read([job_id.decode() for job_id in ids]) if job is not None]

    async def cancel(self, job_id: str) -> RefreshJob:
        """Ask for the end of one; one that has ended stays as it is.

        Raises:
            RefreshNotFound: there is none of this id.
        """
        if (await self.get(job_id)).status in ("queued", "running"):
            key = self._keys.refresh_job(job_id)

            def ask(pipeline: Pipeline) -> None:
                pipeline.hset(key, "cancel", "1")
                pipeline.expire(key, JOB_TTL_S)

            await self._cache.execute("jobs", ask)
        return await self.get(job_id)

    async def _read(self, ids: list[str]) -> list[RefreshJob | None]:
        if not ids:
            return []

        def commands(pipeline: Pipeline) -> None:
            for job_id in ids:
                pipeline.hmget(self._keys.refresh_job(job_id), FIELDS)

        rows = await self._cache.execute("jobs", commands)
        return [RefreshJob.read(job_id, values) for job_id, values in zip(ids, rows, strict=True)]
