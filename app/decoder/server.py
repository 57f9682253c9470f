"""The decoder process as an ASGI application.

POST /decode        one constrained decode (see decode_wire)
POST /encode        vectors of item texts (see encode_wire)
POST /rank          scores by a version's ranker (see rank_wire)
GET  /health/live   the process runs
GET  /health/ready  a version is loaded, warm and checked
GET  /metrics       Prometheus
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError

from app import problems
from app.decode_wire import DecodeBody, DecodeReply
from app.decoder.caller_context import CallerContext
from app.decoder.engines import Engine
from app.decoder.loaded_models import LoadedModel, LoadedModels
from app.decoder.metrics import DecoderMetrics
from app.decoder.problems import DeadlinePassed, DecodeFailed, DecodeQueueFull, EngineGone, VersionNotLoaded
from app.decoder.queue import DecodeQueue, QueueFull
from app.decoder.ranking import Ranking
from app.decoder.settings import DecoderSettings
from app.decoder.text_encoding import TextEncoding
from app.decoder.version_errors import EngineRestarting, VersionUnusable
from app.encode_wire import MAX_CHARACTERS, EncodeBody, EncodeReply, pack_vectors
from app.json_response import Json
from app.problems import BodyTooLarge, Problem
from app.rank_wire import RankerBody, RankerReply
from app.tracing import Tracing
from model_store.bundle import ModelStore
from model_store.decoders.protocol import Decoded, DecodeRequest
from model_store.decoders.vllm.engine import EngineDied

_MAX_BODY_BYTES = 8 << 20
_MAX_DEADLINE_MS = 120_000
_CLIENT_GONE = 499

_logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)


class DecodeService:
    """Decodes requests with the version each asks for.

    Args:
        settings: queue, batch, store.
        engine: what runs the models (see `engines.choose_engine`).
        metrics: what is counted.
        tracing: where spans go; None for nowhere.
    """

    def __init__(
        self, settings: DecoderSettings, engine: Engine, metrics: DecoderMetrics, tracing: Tracing | None = None
    ) -> None:
        self.engine = engine
        self.models = LoadedModels(ModelStore(settings.store), settings, engine, metrics)
        self._store = ModelStore(settings.store)
        self._texts = TextEncoding(self._store)
        self._ranking = Ranking(
            self._store, limit=settings.queue, keep=settings.keep_versions, retry_s=settings.retry_unusable_s
        )
        self._active: str | None = None
        self._poll_s = settings.active_poll_ms / 1000
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._queue: DecodeQueue[LoadedModel] = DecodeQueue(
            self._run, limit=settings.queue, batch=settings.batch, metrics=metrics, tracing=tracing
        )

    @property
    def ready(self) -> bool:
        """Whether a version is loaded, warm and checked, and the active one not without its engine."""
        return bool(self.models.versions) and not self.models.is_restarting(self._active)

    async def run(self) -> None:
        """Serve the queue, follow the active version and watch the engines until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.work())
            group.create_task(self.models.watch())
            group.create_task(self._follow_active())

    async def decode(self, body: DecodeBody) -> DecodeReply:
        """Answer one request.

        Raises:
            Problem: why there is no answer.
            ValueError: the request does not fit the catalogue of its version.
        """
        begin = perf_counter()
        expires = asyncio.get_running_loop().time() + min(body.deadline_ms, _MAX_DEADLINE_MS) / 1000
        try:
            async with asyncio.timeout_at(expires):
                model = await self.models.get(body.version)
            request = _request(model, body)
            with model.in_use():
                decoded = await self._decode(model, request, expires)
        except TimeoutError:
            self._metrics.dropped.labels("deadline").inc()
            raise DeadlinePassed from None
        except QueueFull:
            raise DecodeQueueFull from None
        except EngineRestarting as error:
            raise EngineGone(str(error)) from error
        except VersionUnusable as error:
            raise VersionNotLoaded(str(error)) from error
        return DecodeReply(
            version=body.version,
            generator=model.decoder.name,
            items=[one.item for one in decoded],
            scores=[one.score for one in decoded],
            decode_ms=(perf_counter() - begin) * 1000,
        )

    async def encode(self, body: EncodeBody) -> EncodeReply:
        """Encode the texts of one request.

        Raises:
            Problem: why there is no answer.
        """
        expires = asyncio.get_running_loop().time() + min(body.deadline_ms, _MAX_DEADLINE_MS) / 1000
        try:
            documents = [document[:MAX_CHARACTERS] for document in body.documents]
            vectors = await self._texts.encode(body.version, documents, expires)
        except TimeoutError:
            raise DeadlinePassed from None
        except QueueFull:
            raise DecodeQueueFull from None
        except VersionUnusable as error:
            raise VersionNotLoaded(str(error)) from error
        except Exception as error:
            self._metrics.errors.labels("encode").inc()
            _logger.exception("encode failed")
            raise DecodeFailed from error
        return EncodeReply(version=body.version, size=vectors.shape[1], vectors=pack_vectors(vectors))

    async def rank(self, body: RankerBody) -> RankerReply:
        """Score the items of one request.

        Raises:
            Problem: why there is no answer.
            ValueError: an item is outside the catalogue of the version.
        """
        begin = perf_counter()
        expires = asyncio.get_running_loop().time() + min(body.deadline_ms, _MAX_DEADLINE_MS) / 1000
        try:
            ranker, scores = await self._ranking.rank(
                body.version, body.history, body.candidates, body.user_key, expires
            )
        except TimeoutError:
            self._metrics.dropped.labels("deadline").inc()
            raise DeadlinePassed from None
        except QueueFull:
            raise DecodeQueueFull from None
        except VersionUnusable as error:
            raise VersionNotLoaded(str(error)) from error
        except ValueError:
            raise
        except Exception as error:
            self._metrics.errors.labels("rank").inc()
            _logger.exception("ranking failed")
            raise DecodeFailed from error
        seconds = perf_counter() - begin
        self._metrics.stage_seconds.labels("rank").observe(seconds)
        return RankerReply(version=body.version, ranker=ranker, scores=scores.tolist(), rank_ms=seconds * 1000)

    async def close(self) -> None:
        """Close the engines. Nothing may be decoding any more."""
        self._texts.close()
        self._ranking.close()
        await self.models.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _decode(self, model: LoadedModel, request: DecodeRequest, expires: float) -> list[Decoded]:
        try:
            return await self._queue.decode(model, request, expires)
        except EngineDied as error:
            self.models.engine_died(model)
            raise EngineGone from error
        except (TimeoutError, QueueFull):
            raise
        # Whatever the engine raised is a defect of ours or of the engine: logged whole, shown as a 500.
        except Exception as error:
            self._metrics.errors.labels("decode").inc()
            _logger.exception("decode failed")
            raise DecodeFailed from error

    async def _run(self, model: LoadedModel, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, model.decoder.decode, requests)

    async def _follow_active(self) -> None:
        """Keep the store's active version loaded, so that a switch finds it warm."""
        while True:
            self._active = await asyncio.to_thread(self._store.active)
            if self._active is not None:
                # Its trouble has been logged, and whoever asks for it is told.
                with suppress(VersionUnusable):
                    await self.models.get(self._active)
                    await self._ranking.prepare(self._active)
            await asyncio.sleep(self._poll_s)


def create_decoder_app(
    settings: DecoderSettings, engine: Engine, metrics: DecoderMetrics | None = None, tracing: Tracing | None = None
) -> FastAPI:
    """Wire the application; models are opened in the background once its lifespan has started.

    Args:
        settings: queue, batch, store.
        engine: what runs the models (see `engines.choose_engine`).
        metrics: of a replica, which also sets `metrics.ready` itself; None for a process that is on its own.
        tracing: where spans go, closed with the application; None for nowhere.
    """
    alone = metrics is None
    metrics = metrics or DecoderMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = service = DecodeService(settings, engine, metrics, tracing)
        if alone:
            metrics.ready.set_function(lambda: service.ready)
        running = asyncio.create_task(service.run(), name="decode-service")
        running.add_done_callback(_end_if_failed)
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await service.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(title="Tessera decoder", lifespan=lifespan, redoc_url=None)
    problems.install(app)
    app.add_middleware(CallerContext, tracing=tracing)

    @app.post("/decode")
    async def decode(request: Request) -> Response:
        """Decode one history or query; see `DecodeBody` and `DecodeReply`."""
        try:
            response = await _answer(request, app.state.service, metrics)
        except Problem as problem:
            metrics.requests.labels(problem.status).inc()
            raise
        except RequestValidationError:
            metrics.requests.labels(422).inc()
            raise
        metrics.requests.labels(response.status_code).inc()
        return response

    @app.post("/encode")
    async def encode(request: Request) -> Response:
        """Encode item texts; see `EncodeBody` and `EncodeReply`."""
        return Json((await app.state.service.encode(await _body(request, EncodeBody))).model_dump())

    @app.post("/rank")
    async def rank(request: Request) -> Response:
        """Score items; see `RankerBody` and `RankerReply`."""
        body = await _body(request, RankerBody)
        try:
            return Json((await app.state.service.rank(body)).model_dump())
        except ValueError as error:
            raise _invalid(str(error)) from error

    @app.get("/health/live")
    async def live() -> Response:
        """The process runs."""
        return Json({"status": "alive"})

    @app.get("/health/ready")
    async def ready() -> Response:
        """A version is loaded, warm and checked; 503 until then, and while the engine is being started again."""
        service = app.state.service
        status = "ready" if service.ready else "not_ready"
        models = service.models
        body = {"status": status, "engine": engine, "versions": models.versions, "troubles": models.troubles}
        return Json(body, status_code=200 if service.ready else 503)

    @app.get("/metrics")
    async def exposition() -> Response:
        """Prometheus metrics."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return app


def _end_if_failed(running: "asyncio.Task[None]") -> None:
    """A process that takes requests and decodes none is worse than one that ends and is started again."""
    if not running.cancelled() and running.exception() is not None:
        _logger.critical("the decode service failed", exc_info=running.exception())
        signal.raise_signal(signal.SIGTERM)


async def _answer(request: Request, service: DecodeService, metrics: DecoderMetrics) -> Response:
    body = await _body(request, DecodeBody)
    decoding = asyncio.create_task(service.decode(body))
    leaving = asyncio.create_task(_client_leaves(request))
    try:
        await asyncio.wait((decoding, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not decoding.done():
            metrics.dropped.labels("client_gone").inc()
            return Response(status_code=_CLIENT_GONE)
        return Json(decoding.result().model_dump())
    except ValueError as error:
        raise _invalid(str(error)) from error
    finally:
        decoding.cancel()
        leaving.cancel()


async def _body(request: Request, kind: type[Body]) -> Body:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY_BYTES:
            raise BodyTooLarge(f"A request holds at most {_MAX_BODY_BYTES} bytes.")
    try:
        return kind.model_validate_json(bytes(content))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from error


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _request(model: LoadedModel, body: DecodeBody) -> DecodeRequest:
    return DecodeRequest(
        history=model.item_indices(body.history, "history"),
        n=body.n,
        beam_width=body.beam_width,
        excluded=model.item_indices(body.excluded, "excluded"),
        eligible=model.eligible(body.eligible),
        query=body.query,
        candidates=None if body.candidates is None else model.item_indices(body.candidates, "candidates"),
        max_per_prefix=body.max_per_prefix,
        prefix_levels=body.prefix_levels,
    )


def _invalid(message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ["body"], "msg": message, "type": "value_error"}])
