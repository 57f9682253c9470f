"""Bodies and answers of the dashboard's and operators' routes."""

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.schemas import Asked, Dependency, Id
from model_store.refresh_jobs import MAX_USERS

MAX_LOOKED_UP = 200


class LookupBody(Asked):
    """Items to describe."""

    ids: tuple[Id, ...] = Field(min_length=1, max_length=MAX_LOOKED_UP, description="Item ids, in any order.")


class DescribedItem(BaseModel):
    """What the served catalogue says of an item."""

    item_id: str
    title: str
    categories: list[str]
    price: float | None = Field(description="None where it is not known")
    available: bool
    code: str = Field(description="the item's code as the model writes it")


class LookupAnswer(BaseModel):
    """The items of a request, each once, in the order asked for."""

    items: list[DescribedItem]
    unknown: list[str] = Field(description="ids that the served catalogue does not have")
    model_version: str


class ActivateAnswer(BaseModel):
    """The version that is served from now on; every worker follows within a second."""

    version: str
    before: str = Field(description="the version that was served")
    cached_lists: int = Field(description="users with a list of this version; the others are decoded live")
    cached_lists_estimated: bool
    warning: str | None = Field(description="what to do, where nothing is cached")


class RefreshBody(Asked):
    """Which lists to decode anew. It never changes which version is served."""

    mode: Literal["full", "stale"] = Field(
        description="full: everybody with a history, or `users`. stale: those whose list is missing or out of date, "
        "most worth it first."
    )
    version: Id | None = Field(default=None, description="Model version; the served one by default.")
    budget_users: int | None = Field(default=None, ge=1, description="Of stale: so many users at most.")
    budget_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Of stale: for so many seconds at most."
    )
    users: tuple[Id, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_USERS, description="Of full: only these users."
    )

    @model_validator(mode="after")
    def _options_of_the_mode(self) -> Self:
        if self.mode == "full" and (self.budget_users is not None or self.budget_s is not None):
            raise ValueError("budget_users and budget_s are for mode stale")
        if self.mode == "stale" and self.users is not None:
            raise ValueError("users is for mode full")
        return self


class RefreshJobAnswer(BaseModel):
    """A refresh that was asked for. Times are Unix seconds."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    cancelling: bool = Field(description="its end was asked for and has not come yet")
    mode: Literal["full", "stale"]
    version: str
    budget_users: int | None
    budget_s: float | None
    users: int | None = Field(description="how many users were named; null for all")
    created_at: float
    started_at: float | None
    ended_at: float | None
    users_done: int | None
    users_total: int | None
    users_per_second: float | None
    left_s: float | None = Field(description="seconds left at this rate; while it runs")
    error: str | None = Field(description="the last line of what went wrong")
    starts: int = Field(description="how often a worker took it up")


class RefreshJobsAnswer(BaseModel):
    """Refreshes asked for, newest first."""

    worker: bool = Field(description="whether a worker was heard of in the last seconds")
    jobs: list[RefreshJobAnswer]


class OverviewAnswer(BaseModel):
    """What goes on, of all workers. What only Redis knows is null while Redis is away."""

    generated_at: float = Field(description="Unix seconds")
    served: str = Field(description="the model version this worker answers with")
    takes_queries: bool = Field(description="whether it can be asked in words")
    status: str = Field(description="ready or degraded, as in /health/ready")
    dependencies: dict[str, Dependency]
    traffic: dict[str, Any] | None = Field(
        description="the last 60 minutes, oldest first: answers by source, failures, share of fresh answers, latency"
    )
    cache: dict[str, Any] | None = Field(
        description="coverage and ages of the served version's lists, some minutes old; null before a first look"
    )
    caches: list[str] | None = Field(description="versions that lists were cached under and that were not purged")
    redis: dict[str, Any] | None = Field(description="memory")
    refresh: RefreshJobsAnswer | None
