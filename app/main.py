"""The API process: `create_app` wires it, `serve` runs it with one worker or several."""

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import openapi_examples, problems, structured_logging
from app.access import Access
from app.api_keys import refuse_open_bind
from app.direct_route import DirectRoute
from app.gorse import health_routes, item_routes, list_routes, user_routes
from app.http_protocol import HttpProtocol
from app.key_file import read_keys
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.request_boundary import RequestBoundary
from app.routers import take_routes
from app.routes import (
    blocks,
    catalogue,
    dashboard,
    events,
    export,
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
from app.running_services import redis_of, running_services
from app.scenarios import read_scenarios
from app.settings import Settings
from app.telemetry import MULTIPROCESS_VARIABLE, Telemetry
from app.tracing import check_tracing, open_tracing
from app.traffic import Traffic
from model_store.bundle import MODEL_FOLDERS, ModelStore
from model_store.errors import BundleNotFound

_SHUTDOWN_S = 10
_BACKLOG = 1024
_CORS_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def create_app(settings: Settings, *, clock: Callable[[], float] = time.time) -> FastAPI:
    """Wire the application. Nothing but the files of API keys and scenarios is opened before its lifespan starts.

    Args:
        settings: the deployment.
        clock: Unix seconds, of the windows of /latency.

    Raises:
        KeyFileInvalid: the one is not as it must be.
        ScenariosInvalid: the other is not.
        TracingUnusable: traces are asked for and OpenTelemetry is not installed.
    """
    telemetry = Telemetry(open_tracing(settings.traces_endpoint, settings.traces_share, "tessera-api"), clock=clock)
    access, traffic, scenarios = Access(settings), Traffic(), read_scenarios(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running_services(settings, telemetry, access, traffic, scenarios) as services:
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
            allow_headers=["Content-Type", "X-API-Key", "X-API-Version", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    for module in (
        *(recommendations, ranking, why_not, blocks, events),
        # `overview` before `items`: a lookup of several is no item's id.
        *(overview, items, catalogue, models, refresh, export, health, metrics, quality, dashboard),
        *(list_routes, item_routes, user_routes, health_routes),
    ):
        take_routes(app, module.router)
    return app


def app_from_environment() -> FastAPI:
    """The application as a worker process makes it, from `TESSERA_*`."""
    settings = Settings()
    structured_logging.configure(settings.log_level)
    return create_app(settings)


def serve(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    """Serve until a signal ends it.

    Raises:
        TesseraError: an open address without keys, a file of keys or scenarios that cannot be used, no active model
            version or a corrupt one, no Redis that could be started, a Redis URL that cannot be read, or traces asked
            for without OpenTelemetry. Found before anything listens.
    """
    settings = settings.model_copy(update={"workers": workers})
    refuse_open_bind(read_keys(settings.api_keys, settings.api_keys_file), host)
    read_scenarios(settings)
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
    # Off, perhaps, for a start that its children make.
    gc.enable()
    with _environment_of_workers(settings):
        uvicorn.run("app.main:app_from_environment", factory=True, workers=workers, **options)


async def _check_version(settings: Settings) -> None:
    """Find out on the terminal what would otherwise end every worker at its start, again and again.

    As `ActiveVersion.start` chooses it. Reads the version's files once more than the workers do.
    """
    store = ModelStore(settings.store)
    cache = RecommendationCache(redis_of(settings), settings, Telemetry())
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
