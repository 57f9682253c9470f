"""What routes may ask for."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import APIKeyHeader

from app.access import admit
from app.active_version import ActiveVersion
from app.api_keys import Scope
from app.attribution import Attribution
from app.cache_survey import CacheSurvey
from app.event_problems import NotAReadType
from app.event_refresh import EventRefresh
from app.freshness import Freshness
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_publishing import ItemPublishing
from app.item_writes import ItemWrites
from app.live_decoding import LiveDecoding
from app.live_ranking import LiveRanking
from app.popular_windows import PopularWindows
from app.problems import QueryNotSupported
from app.read_write_back import ReadWriteBack
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.recommender import Recommender
from app.recorded_events import RecordedEvents
from app.refresh_jobs import RefreshJobs
from app.scenarios import Scenarios
from app.schemas import Id, NoParameters
from app.served_model import ServedModel
from app.settings import Settings
from app.telemetry import Telemetry
from app.withheld_items import WithheldItems
from model_store.bundle import ModelStore

_key_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed where the server has keys configured."
)


@dataclass(frozen=True, eq=False)
class Services:
    """The parts of one application, made at its start."""

    settings: Settings
    scenarios: Scenarios
    store: ModelStore
    telemetry: Telemetry
    cache: RecommendationCache
    live: LiveDecoding
    ranking: LiveRanking
    active: ActiveVersion
    recommender: Recommender
    freshness: Freshness
    event_refresh: EventRefresh
    withheld: WithheldItems
    write_back: ReadWriteBack
    recorded_events: RecordedEvents
    popular_windows: PopularWindows
    attribution: Attribution
    refresh_jobs: RefreshJobs
    survey: CacheSurvey
    overlay: ItemOverlay
    item_log: ItemLog
    item_writes: ItemWrites
    item_publishing: ItemPublishing


async def services_of(request: Request) -> Services:
    """The parts of the application that answers this request."""
    return cast(Services, request.app.state.services)


async def served_model(services: Annotated[Services, Depends(services_of)]) -> ServedModel:
    """The version to answer this request with, and in it every change of an item that was accepted so far.

    While Redis is away, those that were known before.
    """
    with suppress(CacheUnavailable):
        await services.item_log.sync()
    return services.active.served


def require(scope: Scope) -> Callable[..., Awaitable[None]]:
    """A dependency that lets only callers with `scope` pass."""

    async def check(request: Request, key: Annotated[str | None, Security(_key_header)]) -> None:
        admit(request.scope, scope)

    return check


def check_query(query: str | None, services: Services) -> None:
    """Refuse words where the served version cannot read them.

    Raises:
        QueryNotSupported: it has no prompts for a query.
    """
    if query is not None and not services.active.served.takes_queries:
        raise QueryNotSupported


def check_write_back(event_type: str | None, services: Services) -> None:
    """Refuse to write back as read what the server would not take for a read.

    Raises:
        NotAReadType: it is none of its read types.
    """
    if event_type is not None and event_type not in services.settings.types_of_reads:
        raise NotAReadType


CurrentServices = Annotated[Services, Depends(services_of)]
CurrentModel = Annotated[ServedModel, Depends(served_model)]
PathId = Annotated[Id, Path()]
NoQuery = Annotated[NoParameters, Query()]
