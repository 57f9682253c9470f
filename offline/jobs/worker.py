"""Does the refreshes that were asked for over HTTP, one at a time, and says in Redis how they stand.

Needs no model library itself: each is a `tessera refresh` in a process of its own.
"""

import logging
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import orjson

from model_store.cache_keys import Keys
from model_store.refresh_jobs import FIELDS, JOB_TTL_S, RefreshJob, Status
from offline.jobs.refresh_process import RefreshProcess
from offline.jobs.worker_lock import WorkerLock
from offline.redis_connection import REDIS_FAILURES

LOST = "worker lost"
_TICK_S = 0.5
_MAX_STARTS = 3

_logger = logging.getLogger(__name__)


class RefreshWorker:
    """Takes jobs from Redis until it is stopped.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        tick_s: how often it looks.
    """

    def __init__(self, redis: Any, keys: Keys, tick_s: float = _TICK_S) -> None:
        self._redis = redis
        self._keys = keys
        self._tick_s = tick_s
        self._lock = WorkerLock(redis, keys)
        self._holding = False
        self._current: tuple[str, RefreshProcess] | None = None
        self._unreported: tuple[str, Status, str | None] | None = None
        self._redis_away = False

    def run(self, stop: Event) -> None:
        """Work until `stop` is set. A job under way is put back, or failed if no ledger knows how far it came."""
        try:
            while True:
                try:
                    self._tick()
                    self._redis_away = False
                except REDIS_FAILURES as error:
                    if not self._redis_away:
                        _logger.warning("Redis said: %s; trying again", error)
                    self._redis_away = True
                if stop.wait(self._tick_s):
                    return
        finally:
            self._leave()

    def _tick(self) -> None:
        self._holding = self._lock.hold()
        if not self._holding:
            # Away for too long: another worker has this job now, and writes its status.
            self._drop()
            return
        if self._current is not None:
            self._look_after(*self._current)
        if self._unreported is not None:
            self._ended(*self._unreported)
            self._unreported = None
        if self._current is None:
            self._begin_next()

    def _interrupted(self, job: RefreshJob) -> None:
        if job.cancelling:
            self._ended(job.job_id, "cancelled")
        elif job.order.resumable and job.starts < _MAX_STARTS:
            self._write(job.job_id, status="queued")
        else:
            self._ended(job.job_id, "failed", LOST)

    def _begin_next(self) -> None:
        left = [job for job in self._jobs() if job.ended_at is None]
        if lost := [job for job in left if job.status == "running"]:
            # Of a worker that is gone. What is put back is begun the next time, before those that came after it.
            for job in lost:
                self._interrupted(job)
            return
        for job in reversed(left):
            if job.status == "cancelled":
                self._ended(job.job_id, "cancelled")
                continue
            listed = self._redis.hget(self._keys.refresh_job(job.job_id), "users")
            users = None if listed is None else orjson.loads(listed)
            started_at = job.started_at or time.time()
            self._write(job.job_id, status="running", started_at=started_at, starts=job.starts + 1)
            try:
                process = RefreshProcess(job.order, users, resume=job.order.resumable and job.starts > 0)
            except OSError as error:
                self._ended(job.job_id, "failed", f"cannot be started: {error.strerror}")
                return
            _logger.info("refresh %s (%s) of %s begins", job.job_id, job.order.mode, job.order.version)
            self._current = job.job_id, process
            return

    def _look_after(self, job_id: str, process: RefreshProcess) -> None:
        progress = process.progress()
        if progress is not None:
            self._write(
                job_id,
                users_done=progress.done,
                users_total=progress.total,
                users_per_second=round(progress.per_second, 2),
            )
        code = process.exit_code
        status: Status
        if code is None:
            if self._redis.hget(self._keys.refresh_job(job_id), "cancel") is None:
                return
            status, error = "cancelled", None
        else:
            status, error = ("done", None) if code == 0 else ("failed", process.error)
        process.end()
        # Redis may be away just now; how it ended is told when it is back.
        self._current, self._unreported = None, (job_id, status, error)
        _logger.info("refresh %s %s", job_id, status)

    def _leave(self) -> None:
        current = self._current
        self._drop()
        try:
            if self._holding:
                for job in self._jobs():
                    if current is not None and job.job_id == current[0]:
                        self._interrupted(job)
                self._lock.release()
        except REDIS_FAILURES:
            # The next worker finds it running with nobody behind it.
            pass

    def _drop(self) -> None:
        if self._current is not None:
            self._current[1].end()
        self._current = self._unreported = None

    def _jobs(self) -> Iterator[RefreshJob]:
        """Newest first."""
        ids = [job_id.decode() for job_id in self._redis.lrange(self._keys.refresh_jobs, 0, -1)]
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hmget(self._keys.refresh_job(job_id), FIELDS)
        for job_id, values in zip(ids, pipeline.execute(), strict=True):
            job = RefreshJob.read(job_id, values)
            if job is not None:
                yield job

    def _ended(self, job_id: str, status: Status, error: str | None = None) -> None:
        told = {} if error is None else {"error": error}
        self._write(job_id, status=status, ended_at=time.time(), **told)

    def _write(self, job_id: str, **fields: object) -> None:
        key = self._keys.refresh_job(job_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hset(key, mapping={name: str(value) for name, value in fields.items()})
        pipeline.expire(key, JOB_TTL_S)
        pipeline.execute()
