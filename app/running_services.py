"""The parts of one application: how they are made of each other, what runs behind requests, and how they end."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress

from app import embedded_redis
from app.access import Access
from app.active_version import ActiveVersion
from app.attribution import Attribution
from app.background_refresh import BackgroundRefresh
from app.cache_survey import CacheSurvey
from app.dependencies import Services
from app.embedded_redis_watch import keep_running
from app.entry_decoding import EntryDecoding
from app.entry_lifetime import EntryLifetime
from app.event_refresh import EventRefresh
from app.finished_answers import FinishedAnswers
from app.freshness import Freshness
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_places import ItemPlaces
from app.item_publishing import ItemPublishing
from app.item_writes import ItemWrites
from app.live_decoding import LiveDecoding
from app.live_ranking import LiveRanking
from app.popular_windows import PopularWindows
from app.process_watch import ProcessWatch
from app.read_write_back import ReadWriteBack
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from app.recommender import Recommender
from app.recorded_events import RecordedEvents
from app.redis_connection import RedisClient, connect
from app.refresh_jobs import RefreshJobs
from app.scenarios import Scenarios
from app.settings import Settings
from app.structured_logging import FIELDS
from app.telemetry import Telemetry
from app.text_vectors import TextVectors
from app.traffic import Traffic
from app.withheld_items import WithheldItems
from model_store.bundle import ModelStore

_CANCEL_AGAIN_S = 0.2

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def running_services(
    settings: Settings, telemetry: Telemetry, access: Access, traffic: Traffic, scenarios: Scenarios
) -> AsyncIterator[Services]:
    """Start the parts of one application, and stop them when the block ends."""
    store = ModelStore(settings.store)
    cache = RecommendationCache(await asyncio.to_thread(redis_of, settings), settings, telemetry)
    live = LiveDecoding(settings.live_address, tracing=telemetry.tracing)
    overlay = ItemOverlay()
    item_log = ItemLog(cache, overlay, settings, telemetry)
    active = ActiveVersion(store, cache, settings, telemetry, on_opened=lambda model: overlay.follow(model.eligibility))
    freshness = Freshness(cache, telemetry)
    entries = EntryDecoding(live, cache, freshness, settings)
    refresh = BackgroundRefresh(active, cache, live, entries, settings, telemetry)
    event_refresh = EventRefresh(refresh, settings, telemetry)
    withheld = WithheldItems(cache, settings)
    write_back = ReadWriteBack(withheld, telemetry)
    attribution = Attribution(cache, settings, telemetry)
    recorded_events = RecordedEvents(cache, withheld, settings)
    popular_windows = PopularWindows(cache, telemetry)
    finished = FinishedAnswers(refresh, freshness, attribution, write_back, telemetry)
    recommender = Recommender(active, cache, item_log, live, entries, finished, settings, telemetry)
    survey = CacheSurvey(active, cache)
    texts, ranking = TextVectors(settings), LiveRanking(settings)
    places = ItemPlaces(store, cache, overlay, texts)
    publishing = ItemPublishing(store, active, cache, overlay, item_log, places, settings, telemetry)
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
            ("keys", access.follow()),
            ("process", ProcessWatch(telemetry.process, active, cache, live, settings).run()),
            *([] if settings.redis_url else [("redis", keep_running(settings.home))]),
            ("write back", write_back.run()),
            ("attribution", attribution.run()),
            ("popular windows", popular_windows.run()),
            ("traffic", traffic.run(cache)),
            ("survey", survey.run()),
            ("items", item_log.run()),
            ("publishing", publishing.run()),
        ):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(_report_crash)
            tasks.append(task)
        # The catalogue is millions of small objects that live as long as the process; walking them at every full
        # collection would stop requests for tens of milliseconds. So would collecting now; there is next to nothing.
        gc.freeze()
        gc.enable()
        yield Services(
            settings=settings,
            scenarios=scenarios,
            store=store,
            telemetry=telemetry,
            cache=cache,
            live=live,
            ranking=ranking,
            active=active,
            recommender=recommender,
            freshness=freshness,
            event_refresh=event_refresh,
            withheld=withheld,
            write_back=write_back,
            recorded_events=recorded_events,
            popular_windows=popular_windows,
            attribution=attribution,
            refresh_jobs=RefreshJobs(cache),
            survey=survey,
            overlay=overlay,
            item_log=item_log,
            item_writes=ItemWrites(active, overlay, item_log, places, settings),
            item_publishing=publishing,
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
        await texts.aclose()
        await ranking.aclose()
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


def redis_of(settings: Settings) -> RedisClient:
    """A client of the deployment's Redis, which is started where it is an embedded one."""
    url = settings.redis_url.get_secret_value() if settings.redis_url else embedded_redis.ensure_running(settings.home)
    return connect(
        url,
        connect_timeout_s=settings.redis_timeout_ms / 1000,
        timeout_s=settings.redis_write_timeout_ms / 1000,
        max_connections=settings.redis_max_connections,
    )
