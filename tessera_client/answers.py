"""What the service answers, as frozen dataclasses. A field the client does not know is left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RankedItem:
    """One item of a list.

    Attributes:
        rank: 1 for the best of the whole list, whatever the offset.
        score: log-probability, cosine similarity or events, as `reason` says; compare equal reasons.
        code: the item's code as the model writes it.
        reason: the part that gave it: cache, reranked, live, neighbors or popular.
    """

    item_id: str
    rank: int
    score: float
    code: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A list for a user or a session.

    Attributes:
        recommendation_id: repeat it in events to attribute them.
        user_id: None for a session.
        source: the part that gave the first item: cache, stale_cache, live, neighbors or popular.
        generated_at: when the list was decoded, or made; UTC, ISO 8601.
        age_s: seconds since then.
        degraded: a part that should have answered did not.
        shortfall_reason: why there are fewer items than asked for; None when there are enough.
        not_applied: options that the list was made without, and why.
        explain: how the answer came about, where that was asked for.
    """

    recommendation_id: str
    user_id: str | None
    items: tuple[RankedItem, ...]
    source: str
    model_version: str
    generated_at: str
    age_s: float
    degraded: bool
    shortfall_reason: str | None
    not_applied: Mapping[str, str]
    explain: Mapping[str, Any] | None = None

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of the items, best first."""
        return tuple(item.item_id for item in self.items)


@dataclass(frozen=True)
class Recommendations:
    """One answer per user, in the order asked for."""

    answers: tuple[Recommendation, ...]


@dataclass(frozen=True)
class RankedCandidate:
    """One of the items that were to be ranked; `score` is the model's exact log-probability."""

    item_id: str
    rank: int
    score: float
    code: str


@dataclass(frozen=True)
class Ranking:
    """The items of a request, best first.

    Attributes:
        unknown: ids that the served catalogue does not have.
    """

    user_id: str | None
    items: tuple[RankedCandidate, ...]
    unknown: tuple[str, ...]
    model_version: str


@dataclass(frozen=True)
class SimilarItems:
    """Items near an item, the nearest first."""

    item_id: str
    items: tuple[RankedItem, ...]
    model_version: str


@dataclass(frozen=True)
class PopularItems:
    """The most popular items."""

    items: tuple[RankedItem, ...]
    model_version: str


@dataclass(frozen=True)
class RejectedEvent:
    """An event that was not recorded.

    Attributes:
        row: its place among the events that were sent, from 0.
    """

    row: int
    item_id: str
    reason: str


@dataclass(frozen=True)
class RecordedEvents:
    """What became of events."""

    accepted: int
    rejected: tuple[RejectedEvent, ...]


@dataclass(frozen=True)
class History:
    """What is recorded of a user: item ids, oldest first."""

    user_id: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    """Whether there was anything to forget."""

    user_id: str
    existed: bool


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


@dataclass(frozen=True)
class Latencies:
    """Request times of all workers, by route and source."""

    latencies: tuple[RouteLatency, ...]
