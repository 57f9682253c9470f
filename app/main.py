"""The API process: `create_app` wires it, `serve` runs it with one worker or several."""

import asyncio
import gc
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI

from app import embedded_redis, problems, structured_logging
from app.active_version import ActiveVersion
from app.api_keys import ApiKeys, refuse_open_bind
from app.background_refresh import BackgroundRefresh
from app.dependencies import Services
from app.entry_decoding import EntryDecoding
from app.entry_lifetime import EntryLifetime
from app.event_refresh import EventRefresh
from app.freshness import Freshness
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_places import ItemPlaces
from app.item_publishing import ItemPublishing
from app.item_writes import ItemWrites
from app.live_decoding import LiveDecoding
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.recommender import Recommender
from app.redis_connection import RedisClient, connect
from app.request_boundary import RequestBoundary
from app.routes import catalogue, events, health, items, metrics, ranking, recommendations
from app.settings import Settings
from app.structured_logging import FIELDS
from app.telemetry import MULTIPROCESS_VARIABLE, Telemetry
from app.text_vectors import TextVectors
from model_store.bundle import ModelStore
from model_store.errors import BundleNotFound

_SHUTDOWN_S = 10
_CANCEL_AGAIN_S = 0.2

_logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Wire the application. Nothing is opened before its lifespan starts."""
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, telemetry) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Tessera",
        description="Recommendations written by a language model, served in a millisecond.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.keys = ApiKeys.parse(settings.api_keys)
    problems.install(app)
    app.add_middleware(RequestBoundary, settings=settings, telemetry=telemetry)
    for routes in (recommendations, ranking, events, items, catalogue, health, metrics):
        app.include_router(routes.router)
    return app


def app_from_environment() -> FastAPI:
    """The application as a worker process makes it, from `TESSERA_*`."""
    settings = Settings()
    structured_logging.configure(settings.log_level)
    return create_app(settings)


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until a signal ends it.

    Raises:
        TesseraError: an open address without keys, no active model version, no Redis that could be started, or a Redis
            URL that cannot be read. Found before anything listens.
    """
    refuse_open_bind(ApiKeys.parse(settings.api_keys), host)
    asyncio.run(_check_version(settings))
    structured_logging.configure(settings.log_level)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": _SHUTDOWN_S,
    }
    if workers == 1:
        uvicorn.run(create_app(settings), **options)
        return
    with _environment_of_workers(settings):
        uvicorn.run("app.main:app_from_environment", factory=True, workers=workers, **options)


@asynccontextmanager
async def _running(settings: Settings, telemetry: Telemetry) -> AsyncIterator[Services]:
    store = ModelStore(settings.store)
    cache = RecommendationCache(await asyncio.to_thread(_redis, settings), settings, telemetry)
    live = LiveDecoding(settings.live_address)
    overlay = ItemOverlay()
    item_log = ItemLog(cache, overlay, settings, telemetry)
    active = ActiveVersion(store, cache, settings, telemetry, on_opened=lambda model: overlay.follow(model.eligibility))
    freshness = Freshness(cache, telemetry)
    entries = EntryDecoding(live, cache, freshness, settings)
    refresh = BackgroundRefresh(active, cache, live, entries, settings, telemetry)
    event_refresh = EventRefresh(refresh, settings, telemetry)
    recommender = Recommender(active, cache, item_log, live, entries, refresh, freshness, settings, telemetry)
    texts = TextVectors(settings)
    places = ItemPlaces(store, cache, overlay, texts, settings)
    publishing = ItemPublishing(store, active, cache, overlay, item_log, places, settings, telemetry)
    keys = ApiKeys.parse(settings.api_keys)
    tasks: list[asyncio.Task[None]] = []
    try:
        await active.start()
        cache.on_active = active.noticed
        with suppress(CacheUnavailable):
            await item_log.load()
        for name, work in (
            ("prepare", active.served.prepare()),
            ("follow", active.follow()),
            ("refresh", refresh.run()),
            ("lifetime", EntryLifetime(active, cache).run()),
            ("freshness", freshness.run()),
            ("items", item_log.run()),
            ("publishing", publishing.run()),
        ):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(_report_crash)
            tasks.append(task)
        # The catalogue is millions of small objects that live as long as the process; walking them at every full
        # collection would stop requests for tens of milliseconds.
        gc.collect()
        gc.freeze()
        yield Services(
            settings,
            keys,
            store,
            telemetry,
            cache,
            live,
            active,
            recommender,
            freshness,
            event_refresh,
            overlay,
            item_log,
            ItemWrites(active, overlay, item_log, places, settings),
            publishing,
        )
        await recommender.settle()
    finally:
        event_refresh.close()
        await _end(tasks)
        await freshness.flush()
        await live.aclose()
        await texts.aclose()
        await cache.aclose()
        telemetry.close()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    # Again and again: redis-py sends within asyncio.wait_for, which before Python 3.12 can swallow a cancellation.
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.critical("background task ended", extra={FIELDS: {"task": task.get_name()}}, exc_info=error)


def _redis(settings: Settings) -> RedisClient:
    url = settings.redis_url.get_secret_value() if settings.redis_url else embedded_redis.ensure_running(settings.home)
    return connect(
        url,
        connect_timeout_s=settings.redis_timeout_ms / 1000,
        timeout_s=settings.redis_write_timeout_ms / 1000,
        max_connections=settings.redis_max_connections,
    )


async def _check_version(settings: Settings) -> None:
    """Find out on the terminal what would otherwise end every worker at its start."""
    store = ModelStore(settings.store)
    cache = RecommendationCache(_redis(settings), settings, Telemetry())
    try:
        active = await cache.active_version()
    except CacheUnavailable:
        active = None
    finally:
        await cache.aclose()
    if active not in store.versions() and store.active() is None:
        raise BundleNotFound(f"{store.root}: no active version; train one, or `tessera models activate VERSION`")


@contextmanager
def _environment_of_workers(settings: Settings) -> Iterator[None]:
    """Hand the settings and a folder for shared metrics to processes that are started within."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="tessera-metrics-") as folder:
        os.environ.update(settings.to_environment())
        os.environ[MULTIPROCESS_VARIABLE] = folder
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
