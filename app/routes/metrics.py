"""For operators: Prometheus metrics and request times."""

from fastapi import APIRouter, Depends, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from app.dependencies import CurrentServices, NoQuery, require
from app.json_response import Json
from app.latency import latencies
from app.problems import responses
from app.schemas import LatencyAnswer

router = APIRouter(tags=["metrics"], dependencies=[Depends(require("read"))], responses=responses())


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
async def metrics(query: NoQuery, services: CurrentServices) -> Response:
    """Prometheus text of all workers."""
    return Response(services.telemetry.exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/latency", responses={200: {"model": LatencyAnswer}})
async def latency(query: NoQuery, services: CurrentServices) -> Json:
    """p50, p95 and p99 by route and source, of all workers, since the server started."""
    return Json({"latencies": latencies(services.telemetry.collect())})
