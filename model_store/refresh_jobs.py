"""A refresh that was asked for over HTTP: what the API leaves in Redis, and the worker takes up and reports on.

A hash for each (`Keys.refresh_job`), and their ids in a list (`Keys.refresh_jobs`). Only the worker that holds
`Keys.refresh_worker` writes the status; the API adds jobs, and asks for their end by the field `cancel`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

JOB_TTL_S = 7 * 86_400
MAX_JOBS = 50
"""Ids kept."""
MAX_QUEUED = 10
"""Jobs that may wait; fewer than MAX_JOBS, so that none of them is pushed out of the list."""
MAX_USERS = 1000
"""Users that one job can name."""
WORKER_EXPIRY_S = 15
"""A worker that has not been heard of for so long is gone."""

Status = Literal["queued", "running", "done", "failed", "cancelled"]

FIELDS = (
    "order",
    "status",
    "cancel",
    "created_at",
    "started_at",
    "ended_at",
    "users_done",
    "users_total",
    "users_per_second",
    "error",
    "starts",
)
"""Of a job's hash; besides, `users` holds the ids it is about, as JSON, where there are any."""


class RefreshOrder(BaseModel):
    """What is to be refreshed.

    Attributes:
        mode: `full` is everybody, or `users` of them; `stale` is whoever is most worth it, within the budgets.
        version: which.
        budget_users, budget_s: of `stale`: users, and seconds, at most.
        users: how many users are named; None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["full", "stale"]
    version: str
    budget_users: Annotated[int, Field(ge=1)] | None = None
    budget_s: Annotated[float, Field(gt=0)] | None = None
    users: int | None = None

    @property
    def resumable(self) -> bool:
        """Whether a ledger knows how far it came."""
        return self.mode == "full" and self.users is None


@dataclass(frozen=True)
class RefreshJob:
    """One job as it stands.

    Attributes:
        job_id: its name.
        order: what is to be done.
        status: where it is.
        cancelling: whether its end was asked for and has not come yet.
        created_at, started_at, ended_at: Unix seconds; None before.
        users_done, users_total: progress; None until the worker knows.
        users_per_second: of the refresh so far.
        error: the last line of what went wrong.
        starts: how often a worker took it up.
    """

    job_id: str
    order: RefreshOrder
    status: Status
    cancelling: bool
    created_at: float
    started_at: float | None
    ended_at: float | None
    users_done: int | None
    users_total: int | None
    users_per_second: float | None
    error: str | None
    starts: int

    @classmethod
    def read(cls, job_id: str, values: Sequence[bytes | None]) -> "RefreshJob | None":
        """From the values of FIELDS; None where there is no such job, or one of another Tessera."""
        raw = dict(zip(FIELDS, (None if value is None else value.decode() for value in values), strict=True))
        if raw["order"] is None or raw["status"] is None:
            return None
        try:
            order = RefreshOrder.model_validate_json(raw["order"])
        except ValidationError:
            return None
        waiting, cancel = raw["status"] == "queued", raw["cancel"] is not None

        def number(name: str) -> float | None:
            value = raw[name]
            return None if value is None else float(value)

        def count(name: str) -> int | None:
            value = raw[name]
            return None if value is None else int(value)

        return cls(
            job_id=job_id,
            order=order,
            # No worker will begin it any more.
            status=cast(Status, "cancelled" if waiting and cancel else raw["status"]),
            cancelling=raw["status"] == "running" and cancel,
            created_at=number("created_at") or 0.0,
            started_at=number("started_at"),
            ended_at=number("ended_at"),
            users_done=count("users_done"),
            users_total=count("users_total"),
            users_per_second=number("users_per_second"),
            error=raw["error"],
            starts=count("starts") or 0,
        )
