"""Everything the dashboard shows beside lists of items, in one answer."""

import time
from dataclasses import asdict
from typing import Any

from redis.asyncio import RedisCluster

from app.dependencies import Services
from app.recommendation_cache import CacheUnavailable
from app.redis_connection import RedisClient
from app.traffic import traffic_history
from model_store.refresh_jobs import RefreshJob

_JOBS_SHOWN = 5


async def overview(services: Services) -> dict[str, Any]:
    """Put it together. What only Redis knows is None while Redis is away, and that is no error."""
    answer: dict[str, Any] = {
        "generated_at": time.time(),
        "served": services.active.served.version,
        "takes_queries": services.active.served.takes_queries,
        "traffic": None,
        "cache": None,
        "caches": None,
        "redis": None,
        "refresh": None,
    }
    try:
        answer["traffic"] = asdict(await traffic_history(services.cache))
        answer["cache"] = await services.survey.latest()
        answer["caches"] = await _caches(services)
        answer["redis"] = await _memory(services)
        jobs = await services.refresh_jobs.newest(_JOBS_SHOWN)
        there = await services.refresh_jobs.worker_is_there()
        answer["refresh"] = {"worker": there, "jobs": [job_fields(job) for job in jobs]}
    except CacheUnavailable:
        # Each part that was read stays; `dependencies` says what is away.
        pass
    return answer


def job_fields(job: RefreshJob) -> dict[str, Any]:
    """A refresh as callers see it."""
    fields = asdict(job) | job.order.model_dump()
    del fields["order"], fields["job_id"]
    left_s = None
    if job.status == "running" and job.users_total is not None and job.users_per_second:
        left_s = round((job.users_total - (job.users_done or 0)) / job.users_per_second, 1)
    return {"id": job.job_id, **fields, "left_s": left_s}


async def _caches(services: Services) -> list[str]:
    (found,) = await services.cache.execute("survey", lambda p: p.hkeys(services.cache.keys.caches))
    return sorted(name.decode(errors="replace") for name in found)


async def _memory(services: Services) -> dict[str, Any]:
    async def ask(client: RedisClient) -> list[dict[str, Any]]:
        if not isinstance(client, RedisCluster):
            return [await client.info("memory")]
        return list((await client.info("memory", target_nodes=RedisCluster.PRIMARIES)).values())

    async with services.cache.attempt("info") as client:
        nodes = await ask(client)
    return {
        "used_bytes": sum(int(node["used_memory"]) for node in nodes),
        "max_bytes": sum(int(node.get("maxmemory", 0)) for node in nodes) or None,
        "nodes": len(nodes),
    }
