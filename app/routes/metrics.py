"""For operators: Prometheus metrics and request times."""

import asyncio
from typing import Annotated

from fastapi import Depends, Query, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.dependencies import CurrentServices, NoQuery, require
from app.json_response import Json
from app.latency import latencies
from app.problems import responses
from app.routers import Router
from app.schemas import LatencyAnswer, LatencyParameters
from app.telemetry import latency_buckets

router = Router(tags=["metrics"], dependencies=[Depends(require("read"))], responses=responses())


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(query: NoQuery, services: CurrentServices) -> Response:
    """Prometheus text of all workers."""
    # Adding up the files of all workers takes longer than a cached answer may wait.
    text = await asyncio.to_thread(services.telemetry.exposition)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/latency", responses={200: {"model": LatencyAnswer}})
async def latency(asked: Annotated[LatencyParameters, Query()], services: CurrentServices) -> Json:
    """p50, p90, p95, p99, maximum and count by route and source, of all workers of this server, lately."""
    windows = await asyncio.to_thread(services.telemetry.latency.read, asked.minutes)
    return Json({"minutes": asked.minutes, "latencies": latencies(windows, latency_buckets())})
