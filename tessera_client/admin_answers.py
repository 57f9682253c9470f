"""What the service answers to those who run it; as `answers`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    """One published version.

    Attributes:
        served: whether the worker that was asked answers with it.
    """

    version: str
    created_at: str
    recipe: str
    items: int
    metrics: Mapping[str, Any]
    served: bool


@dataclass(frozen=True)
class Models:
    """The published versions, oldest first.

    Attributes:
        served: the version that answers.
        unreadable: those that cannot be read, and why.
    """

    served: str
    models: tuple[Model, ...]
    unreadable: Mapping[str, str]


@dataclass(frozen=True)
class Dependency:
    """The state of one part the service leans on."""

    ok: bool
    configured: bool = True
    detail: str | None = None


@dataclass(frozen=True)
class Readiness:
    """Whether requests can be answered, and from what; `status` is ready or degraded."""

    status: str
    model_version: str
    dependencies: Mapping[str, Dependency]


@dataclass(frozen=True)
class RouteLatency:
    """Request times of one route and source, in milliseconds."""

    route: str
    source: str
    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p90_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True)
class Latencies:
    """Request times of all workers, by route and source, within so many minutes."""

    latencies: tuple[RouteLatency, ...]
    minutes: int | None = None


@dataclass(frozen=True)
class DayQuality:
    """Items shown on a day (UTC) from one source and model version, those that had an event, and their share."""

    day: str
    source: str
    model_version: str
    shown: int
    hits: int
    share: float


@dataclass(frozen=True)
class Quality:
    """The latest days, newest first."""

    days: tuple[DayQuality, ...]


@dataclass(frozen=True)
class Activation:
    """The version that is served from now on.

    Attributes:
        before: the version that was served.
        cached_lists: users with a list of this version; the others are decoded live.
        cached_lists_estimated: whether they were counted in a sample.
        warning: what to do, where nothing is cached.
    """

    version: str
    before: str
    cached_lists: int
    cached_lists_estimated: bool
    warning: str | None


@dataclass(frozen=True)
class RefreshJob:
    """A refresh that was asked for. Times are Unix seconds.

    Attributes:
        status: queued, running, done, failed or cancelled.
        cancelling: its end was asked for and has not come yet.
        users: how many were named; None for all.
        left_s: seconds left at this rate, while it runs.
        error: the last line of what went wrong.
        starts: how often a worker took it up.
    """

    id: str
    status: str
    cancelling: bool
    mode: str
    version: str
    budget_users: int | None
    budget_s: float | None
    users: int | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    users_done: int | None
    users_total: int | None
    users_per_second: float | None
    left_s: float | None
    error: str | None
    starts: int


@dataclass(frozen=True)
class RefreshJobs:
    """Refreshes asked for, newest first; `worker` is whether one was heard of in the last seconds."""

    worker: bool
    jobs: tuple[RefreshJob, ...]
