"""Decodes that wait for the engine: bounded, each with a deadline, taken together where the engine gains from it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar

from app.decoder.metrics import DecoderMetrics
from app.tracing import Tracing
from model_store.decoders.protocol import Decoded, DecodeRequest

if TYPE_CHECKING:
    from opentelemetry.context import Context

Model = TypeVar("Model")
Run = Callable[[Model, Sequence[DecodeRequest]], Awaitable[list[list[Decoded]]]]


class QueueFull(Exception):
    """As many decodes wait as may wait."""


@dataclass(eq=False)
class _Job(Generic[Model]):
    model: Model
    request: DecodeRequest
    expires: float
    span: "Context | None"
    arrived: float = field(default_factory=perf_counter)
    answer: "asyncio.Future[list[Decoded]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class DecodeQueue(Generic[Model]):
    """Hands waiting decodes to an engine.

    Args:
        run: decodes a batch of requests of one model.
        limit: decodes that may wait.
        batch: decodes handed over together.
        metrics: what is counted.
        tracing: where the spans of waiting and decoding go; None for nowhere.
    """

    def __init__(
        self,
        run: Run[Model],
        *,
        limit: int,
        batch: int,
        metrics: DecoderMetrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._run = run
        self._limit = limit
        self._batch = batch
        self._metrics = metrics
        self._waiting: deque[_Job[Model]] = deque()
        self._arrived = asyncio.Event()

    async def decode(self, model: Model, request: DecodeRequest, expires: float) -> list[Decoded]:
        """Wait for a turn and decode.

        Args:
            model: passed on to `run`; only requests of the same one share a batch.
            request: what to decode.
            expires: the event loop's time after which the answer is of no use.

        Raises:
            QueueFull: refused at once.
            TimeoutError: not finished in time; what had not started will not start.
        """
        if len(self._waiting) >= self._limit:
            raise QueueFull
        job = _Job(model, request, expires, None if self._tracing is None else self._tracing.here())
        self._waiting.append(job)
        self._count_waiting()
        self._arrived.set()
        try:
            async with asyncio.timeout_at(expires):
                return await job.answer
        finally:
            # Timed out or given up: its place is free for another at once.
            if not job.answer.done():
                job.answer.cancel()
            if job in self._waiting:
                self._waiting.remove(job)
                self._count_waiting()

    async def work(self) -> None:
        """Run the engine until cancelled."""
        while True:
            while not (batch := self._take()):
                self._arrived.clear()
                await self._arrived.wait()
            await self._serve(batch)

    def _take(self) -> list[_Job[Model]]:
        """The jobs to run now: the first that still matters, and others of its model."""
        now = asyncio.get_running_loop().time()
        taken: list[_Job[Model]] = []
        left: deque[_Job[Model]] = deque()
        while self._waiting:
            job = self._waiting.popleft()
            if job.answer.done() or job.expires <= now:
                continue
            if len(taken) < self._batch and (not taken or job.model is taken[0].model):
                taken.append(job)
            else:
                left.append(job)
        self._waiting.extend(left)
        self._count_waiting()
        return taken

    def _count_waiting(self) -> None:
        self._metrics.queue_depth.set(len(self._waiting))

    async def _serve(self, batch: list[_Job[Model]]) -> None:
        begin = perf_counter()
        for job in batch:
            self._metrics.stage_seconds.labels("wait").observe(begin - job.arrived)
            self._metrics.beams.inc(job.request.width)
        self._metrics.batch_size.observe(len(batch))
        run = asyncio.ensure_future(self._run(batch[0].model, [job.request for job in batch]))
        try:
            await asyncio.wait([run])
        except asyncio.CancelledError:
            run.cancel()
            raise
        seconds = perf_counter() - begin
        self._metrics.stage_seconds.labels("decode").observe(seconds)
        if self._tracing is not None:
            for job in batch:
                self._trace(self._tracing, job, begin, seconds, len(batch))
        _deliver(batch, run)

    @staticmethod
    def _trace(tracing: Tracing, job: _Job[Model], begin: float, seconds: float, batch: int) -> None:
        assert job.span is not None
        tracing.record("wait", job.span, begin - job.arrived, ended_ago_s=seconds)
        said = {"tessera.batch": batch, "tessera.beams": job.request.width}
        tracing.record("decode", job.span, seconds, **said)


def _deliver(batch: list[_Job[Model]], run: "asyncio.Future[list[list[Decoded]]]") -> None:
    if run.cancelled():
        for job in batch:
            job.answer.cancel()
        return
    error = run.exception()
    for number, job in enumerate(batch):
        if job.answer.done():
            continue
        if error is not None:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(run.result()[number])
