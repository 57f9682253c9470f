"""The API process: `create_app` wires it, `serve` runs it with one worker or several."""

import asyncio
import gc
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import embedded_redis, openapi_examples, problems, structured_logging
from app.access import Access
from app.active_version import ActiveVersion
from app.api_keys import refuse_open_bind
from app.attribution import Attribution
from app.background_refresh import BackgroundRefresh
from app.cache_survey import CacheSurvey
from app.dependencies import Services
from app.direct_route import DirectRoute
from app.embedded_redis_watch import keep_running
from app.entry_decoding import EntryDecoding
from app.entry_lifetime import EntryLifetime
from app.event_refresh import EventRefresh
from app.finished_answers import FinishedAnswers
from app.freshness import Freshness
from app.http_protocol import HttpProtocol
from app.key_file import read_keys
from app.live_decoding import LiveDecoding
from app.popular_windows import PopularWindows
from app.process_watch import ProcessWatch
from app.read_write_back import ReadWriteBack
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.recommender import Recommender
from app.recorded_events import RecordedEvents
from app.redis_connection import RedisClient, connect
from app.refresh_jobs import RefreshJobs
from app.request_boundary import RequestBoundary
from app.routes import (
    blocks,
    dashboard,
    events,
    health,
    items,
    metrics,
    models,
    overview,
    quality,
    ranking,
    recommendations,
    refresh,
    why_not,
)
from app.settings import Settings
from app.structured_logging import FIELDS
from app.telemetry import MULTIPROCESS_VARIABLE, Telemetry
from app.tracing import check_tracing, open_tracing
from app.traffic import Traffic
from app.withheld_items import WithheldItems
from model_store.bundle import MODEL_FOLDERS, ModelStore
from model_store.errors import BundleNotFound

_SHUTDOWN_S = 10
_BACKLOG = 1024
_CORS_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CANCEL_AGAIN_S = 0.2

_logger = logging.getLogger(__name__)


def create_app(settings: Settings, *, clock: Callable[[], float] = time.time) -> FastAPI:
    """Wire the application. Nothing but the file of API keys is opened before its lifespan starts.

    Args:
        settings: the deployment.
        clock: Unix seconds, of the windows of /latency.

    Raises:
        KeyFileInvalid: that file is not as it must be.
        TracingUnusable: traces are asked for and OpenTelemetry is not installed.
    """
    telemetry = Telemetry(open_tracing(settings.traces_endpoint, settings.traces_share, "tessera-api"), clock=clock)
    access, traffic = Access(settings), Traffic()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, telemetry, access, traffic) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Tessera",
        description="Recommendations written by a language model, served in a millisecond.",
        lifespan=lifespan,
        # Both pages load scripts from other hosts; the document itself is there.
        docs_url=None,
        redoc_url=None,
        # It would answer with an address made of the Host header.
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.access = access
    problems.install(app)
    openapi_examples.install(app)
    # The last one added is the outermost.
    app.add_middleware(DirectRoute)
    app.add_middleware(RequestBoundary, settings=settings, telemetry=telemetry, traffic=traffic)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(settings.allowed_origins),
            allow_methods=_CORS_METHODS,
            allow_headers=["Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    for routes in (
        *(recommendations, ranking, why_not, blocks, events),
        # `overview` before `items`: a lookup of several is no item's id.
        *(overview, items, models, refresh, health, metrics, quality, dashboard),
    ):
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
        TesseraError: an open address without keys, a file of keys that cannot be used, no active model version or a
            corrupt one, no Redis that could be started, a Redis URL that cannot be read, or traces asked for without
            OpenTelemetry. Found before anything listens.
    """
    settings = settings.model_copy(update={"workers": workers})
    refuse_open_bind(read_keys(settings.api_keys, settings.api_keys_file), host)
    check_tracing(settings.traces_endpoint)
    asyncio.run(_check_version(settings))
    structured_logging.configure(settings.log_level)
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        # Nobody may say for another where a request comes from.
        "proxy_headers": False,
        "http": HttpProtocol,
        "ws": "none",
        "backlog": _BACKLOG,
        "timeout_graceful_shutdown": _SHUTDOWN_S,
    }
    if workers == 1:
        uvicorn.run(create_app(settings), **options)
        return
    with _environment_of_workers(settings):
        uvicorn.run("app.main:app_from_environment", factory=True, workers=workers, **options)


@asynccontextmanager
async def _running(
    settings: Settings, telemetry: Telemetry, access: Access, traffic: Traffic
) -> AsyncIterator[Services]:
    store = ModelStore(settings.store)
    cache = RecommendationCache(await asyncio.to_thread(_redis, settings), settings, telemetry)
    live = LiveDecoding(settings.live_address, tracing=telemetry.tracing)
    active = ActiveVersion(store, cache, settings, telemetry)
    freshness = Freshness(cache, telemetry)
    entries = EntryDecoding(live, cache, freshness, settings)
    refresh = BackgroundRefresh(active, cache, live, entries, settings, telemetry)
    event_refresh = EventRefresh(refresh, settings, telemetry)
    withheld = WithheldItems(cache, settings)
    write_back = ReadWriteBack(withheld, telemetry)
    attribution = Attribution(cache, settings, telemetry)
    recorded_events = RecordedEvents(cache, withheld, settings)
    popular_windows = PopularWindows(cache, settings, telemetry)
    finished = FinishedAnswers(refresh, freshness, attribution, write_back, telemetry)
    recommender = Recommender(active, cache, live, entries, finished, settings, telemetry)
    survey = CacheSurvey(active, cache)
    tasks: list[asyncio.Task[None]] = []
    try:
        await active.start()
        cache.on_active = active.noticed
        for name, work in (
            ("prepare", active.served.prepare()),
            ("follow", active.follow()),
            ("refresh", refresh.run()),
            ("lifetime", EntryLifetime(active, cache).run()),
            ("freshness", freshness.run()),
            ("keys", access.follow()),
            ("process", ProcessWatch(telemetry.process, active, cache, live, settings).run()),
            *([] if settings.redis_url else [("redis", keep_running(settings.home))]),
            ("write back", write_back.run()),
            ("attribution", attribution.run()),
            ("popular windows", popular_windows.run()),
            ("traffic", traffic.run(cache)),
            ("survey", survey.run()),
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
            store,
            telemetry,
            cache,
            live,
            active,
            recommender,
            freshness,
            event_refresh,
            withheld,
            write_back,
            recorded_events,
            popular_windows,
            attribution,
            RefreshJobs(cache),
            survey,
        )
        await recommender.settle()
    finally:
        event_refresh.close()
        await _end(tasks)
        for part in (freshness, write_back, attribution, popular_windows):
            await part.flush()
        await recorded_events.aclose()
        await traffic.flush(cache)
        await live.aclose()
        await cache.aclose()
        await asyncio.to_thread(telemetry.close)


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
    """Find out on the terminal what would otherwise end every worker at its start, again and again.

    As `ActiveVersion.start` chooses it. Reads the version's files once more than the workers do.
    """
    store = ModelStore(settings.store)
    cache = RecommendationCache(_redis(settings), settings, Telemetry())
    try:
        active = await cache.active_version()
    except CacheUnavailable:
        active = None
    finally:
        await cache.aclose()
    if active is not None:
        with suppress(BundleNotFound):
            store.open(active, skip=MODEL_FOLDERS)
            return
    store.open(skip=MODEL_FOLDERS)


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
