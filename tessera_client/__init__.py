"""The Python client of a Tessera service.

    from tessera_client import Tessera

    with Tessera("http://127.0.0.1:8000") as tessera:
        for item in tessera.recommend("ann", n=5).items:
            print(item.rank, item.item_id, item.reason)

`AsyncTessera` is the same for asyncio. It needs httpx and nothing else of the package.
"""

from tessera_client.answers import (
    Dependency,
    Forgotten,
    History,
    Latencies,
    Model,
    Models,
    PopularItems,
    RankedCandidate,
    RankedItem,
    Ranking,
    Readiness,
    Recommendation,
    RecordedEvents,
    RejectedEvent,
    RouteLatency,
    SimilarItems,
)
from tessera_client.async_client import AsyncTessera
from tessera_client.errors import (
    AnswerUnreadable,
    Conflict,
    ConnectionFailed,
    InvalidField,
    InvalidRequest,
    KeyRejected,
    NotAllowed,
    NotFound,
    NotSupported,
    ServerFailed,
    TesseraError,
    TimedOut,
    TooLarge,
    TooManyRequests,
    Unavailable,
)
from tessera_client.options import Event, ListOptions, RecommendOptions
from tessera_client.sync_client import Tessera

__all__ = [
    "AnswerUnreadable",
    "AsyncTessera",
    "Conflict",
    "ConnectionFailed",
    "Dependency",
    "Event",
    "Forgotten",
    "History",
    "InvalidField",
    "InvalidRequest",
    "KeyRejected",
    "Latencies",
    "ListOptions",
    "Model",
    "Models",
    "NotAllowed",
    "NotFound",
    "NotSupported",
    "PopularItems",
    "RankedCandidate",
    "RankedItem",
    "Ranking",
    "Readiness",
    "RecommendOptions",
    "Recommendation",
    "RecordedEvents",
    "RejectedEvent",
    "RouteLatency",
    "ServerFailed",
    "SimilarItems",
    "Tessera",
    "TesseraError",
    "TimedOut",
    "TooLarge",
    "TooManyRequests",
    "Unavailable",
]
