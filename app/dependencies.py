"""What routes may ask for."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import APIKeyHeader

from app.active_version import ActiveVersion
from app.api_keys import ApiKeys, Scope, is_local
from app.event_refresh import EventRefresh
from app.freshness import Freshness
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_publishing import ItemPublishing
from app.item_writes import ItemWrites
from app.live_decoding import LiveDecoding
from app.problems import KeyRequired, NotLocal, QueryNotSupported, ScopeMissing
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.recommender import Recommender
from app.schemas import Id, NoParameters
from app.served_model import ServedModel
from app.settings import Settings
from app.telemetry import Telemetry
from model_store.bundle import ModelStore

_key_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed where the server has keys configured."
)


@dataclass(frozen=True, eq=False)
class Services:
    """The parts of one application, made at its start."""

    settings: Settings
    keys: ApiKeys
    store: ModelStore
    telemetry: Telemetry
    cache: RecommendationCache
    live: LiveDecoding
    active: ActiveVersion
    recommender: Recommender
    freshness: Freshness
    event_refresh: EventRefresh
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
        keys: ApiKeys = request.app.state.keys
        if not keys.grants:
            if not is_local(request.client.host if request.client else None):
                raise NotLocal
            return
        scopes = keys.scopes_of(key) if key else None
        if scopes is None:
            raise KeyRequired
        if scope not in scopes:
            raise ScopeMissing(f"This call needs the scope {scope!r}, which the key does not have.")

    return check


def check_query(query: str | None, services: Services) -> None:
    """Refuse words where the served version cannot read them.

    Raises:
        QueryNotSupported: it has no prompts for a query.
    """
    if query is not None and not services.active.served.takes_queries:
        raise QueryNotSupported


CurrentServices = Annotated[Services, Depends(services_of)]
CurrentModel = Annotated[ServedModel, Depends(served_model)]
PathId = Annotated[Id, Path()]
NoQuery = Annotated[NoParameters, Query()]
