"""The whole service at its most talkative, traced: `tessera serve` with its decoder, two workers, keys, a story.

What is said of a request can be put together by its id and its trace, and nowhere is a user, an item or a key named.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from app import embedded_redis
from tests.app.running_server import ROOT, free_port
from tests.app.trace_collector import Collector, trace_collector
from tests.redis_servers import wait_until
from tests.tiny_bundle import build_tiny_bundle

READ, WRITE = "read-key-0123456789", "write-key-0123456789"
USER, OTHER = "zebra.4711", "okapi.4712"
QUERY = "marmalade trousers"
WRONG = "swordfish-0123456789"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
START_TIMEOUT_S = 120


@dataclass
class Told:
    """What the story left behind."""

    lines: list[dict[str, Any]]
    text: str
    traces: Collector
    history: list[str]
    sources: list[str]

    def of(self, request_id: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("request_id") == request_id]


def tell(api: httpx.Client, stored: redis.Redis, items: list[str], port: int) -> list[str]:
    """Ask for nearly everything, rightly and wrongly; returns the sources of some answers."""
    write = {"X-API-Key": WRITE}
    events = [{"user_id": USER, "item_id": item} for item in items]
    api.post("/events", json=events, headers=write).raise_for_status()
    traced = {"X-Request-ID": "story-live", "traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "shop=1"}
    live = api.get(f"/recommend/{USER}?n=5", headers=traced).raise_for_status()
    # It is written back behind the answer.
    wait_until(lambda: next(stored.scan_iter("*:entries:*"), None))
    answers = [
        live,
        api.get(f"/recommend/{USER}?n=5&explain=true", headers={"X-Request-ID": "story-cached"}).raise_for_status(),
        api.get(f"/recommend/{OTHER}", headers={"X-Request-ID": "story-unknown"}).raise_for_status(),
        api.post("/recommend", json={"history": items}).raise_for_status(),
        api.get(f"/recommend/{USER}?q={QUERY}&exclude={items[0]}"),
    ]
    for path, body in (
        ("/rank", {"user_id": USER, "items": items}),
        ("/recommend/batch", {"user_ids": [USER, OTHER], "n": 3}),
        ("/recommend", {"user_id": USER, "history": items}),
        ("/events", {"user_id": USER}),
    ):
        api.post(path, json=body, headers=write)
    for path in (
        f"/similar/{items[0]}",
        f"/similar/{USER}",
        f"/users/{USER}/history",
        f"/nothing/{USER}?key={READ}",
        f"/recommend/{USER}?n=ten&user={OTHER}",
        "/popular",
        "/metrics",
        "/latency?minutes=60",
        "/health/ready",
    ):
        api.get(path)
    for key in ("", WRONG):
        assert api.get(f"/recommend/{USER}", headers={"X-API-Key": key}).status_code == 401
    api.post("/events", content=f'{{"{USER}": "{items[0]}"', headers=write)
    assert api.delete(f"/users/{USER}").status_code == 403
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
        raw.sendall(f"GET /recommend/{USER} NONSENSE {WRONG}\r\n\r\n".encode())
        raw.recv(1000)
    api.delete(f"/users/{USER}", headers=write).raise_for_status()
    return [answer.json().get("source", "") for answer in answers]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("story")
    items = list(build_tiny_bundle(folder / "store").catalog.item_ids[1:4])
    port = free_port()
    with trace_collector() as traces:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TESSERA_STORE": str(folder / "store"),
            "TESSERA_HOME": str(folder / "home"),
            "TESSERA_API_KEYS": f"read:{READ},read+write:{WRITE}",
            "TESSERA_LOG_LEVEL": "DEBUG",
            "TESSERA_ACCESS_LOG": "true",
            "TESSERA_TRACES_ENDPOINT": traces.endpoint,
            "TESSERA_LIVE_DEADLINE_MS": "20000",
            "TESSERA_REDIS_TIMEOUT_MS": "2000",
            "TESSERA_REDIS_WRITE_TIMEOUT_MS": "5000",
            "TESSERA_DECODER_ENGINE": "torch",
            "TESSERA_BEAM_WIDTH": "10",
        }
        command = [sys.executable, str(ROOT / "tessera.py"), "serve", "--port", str(port), "--workers", "2"]
        log = folder / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(command, env=environment, stderr=stderr, cwd=folder)
        try:
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=30, headers={"X-API-Key": READ, "connection": "close"}
            ) as api:
                until_ready(api, process, log)
                with redis.Redis.from_url(embedded_redis.ensure_running(folder / "home")) as stored:
                    sources = tell(api, stored, items, port)
                embedded_redis.stop(folder / "home")
                for _ in range(4):
                    assert api.get(f"/recommend/{USER}").json()["degraded"]
                    event = [{"user_id": USER, "item_id": items[0]}]
                    assert api.post("/events", json=event, headers={"X-API-Key": WRITE}).status_code == 503
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            embedded_redis.stop(folder / "home")
        text = log.read_text()
        yield Told([json.loads(line) for line in text.splitlines()], text, traces, items, sources)


def until_ready(api: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until every part is, the decoder included."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if api.get("/health/ready").json()["status"] == "ready":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def test_story_was_told_by_every_part(told: Told) -> None:
    assert told.sources[:4] == ["live", "cache", "popular", "live"]
    assert {line["status"] for line in told.lines if line["message"] == "request"} >= {200, 401, 403, 404, 422, 503}
    assert {"DEBUG", "INFO"} <= {line["level"] for line in told.lines}


def test_no_user_item_key_or_query_is_in_a_log_line(told: Told) -> None:
    for secret in (USER, OTHER, READ, WRITE, WRONG, *QUERY.split()):
        assert secret not in told.text
    for item in told.history:
        assert not re.search(rf"{re.escape(item)}\b", told.text)


def test_no_user_item_key_or_query_is_in_a_span(told: Told) -> None:
    sent = b"".join(told.traces.raw)
    for secret in (USER, OTHER, READ, WRITE, WRONG, *QUERY.split(), *told.history):
        assert secret.encode() not in sent


def test_every_line_of_a_request_has_its_id(told: Told) -> None:
    ours = [line for line in told.lines if line["message"] in ("request", "decode")]
    assert len(ours) > 20
    assert all(re.fullmatch(r"[0-9a-f]{16}|story-\w+", line["request_id"]) for line in ours)


def test_api_and_decoder_log_under_one_id_and_trace(told: Told) -> None:
    lines = {line["message"]: line for line in told.of("story-live")}
    assert set(lines) == {"request", "decode"}
    assert lines["request"]["trace_id"] == lines["decode"]["trace_id"] == TRACE
    assert lines["decode"]["logger"] == "app.decoder.caller_context"
    # A trace that nobody began for us has an id too.
    (cached,) = told.of("story-cached")
    assert re.fullmatch(r"[0-9a-f]{32}", cached["trace_id"])
    assert cached["trace_id"] != TRACE


def test_spans_of_api_and_decoder_share_one_trace(told: Told) -> None:
    spans = told.traces.of_trace(TRACE)
    request = spans["tessera-api: GET /recommend/{user_id}"]
    live, decode = spans["tessera-api: live"], spans["tessera-decoder: POST /decode"]
    assert request.parent_id == CALLER
    assert {spans["tessera-api: redis"].parent_id, live.parent_id} == {request.span_id}
    assert decode.parent_id == live.span_id
    waiting, decoding = spans["tessera-decoder: wait"], spans["tessera-decoder: decode"]
    assert {waiting.parent_id, decoding.parent_id} == {decode.span_id}
    assert request.begin <= live.begin <= decode.begin <= decoding.begin
    # Begun and ended by different clocks' readings, a moment apart.
    assert waiting.begin <= waiting.end == pytest.approx(decoding.begin, abs=1e8)
    # The decoder's span ends when its answer has gone out, which may be after that has come in here.
    assert decoding.end <= min(decode.end, live.end)
    assert live.end <= request.end
    assert decoding.attributes == {"tessera.batch": 1, "tessera.beams": 10}
    assert request.attributes == {
        "http.request.method": "GET",
        "http.route": "/recommend/{user_id}",
        "http.response.status_code": 200,
        "tessera.source": "live",
        "tessera.degraded": False,
        "tessera.model_version": "tiny-1",
        "tessera.items": 5,
        "tessera.request_id": "story-live",
    }


def test_failures_are_marked(told: Told) -> None:
    refused = [one for one in told.traces.spans if one.attributes.get("http.response.status_code") == 503]
    assert refused
    assert all(one.failed for one in refused)
    degraded = [one for one in told.traces.spans if one.attributes.get("tessera.degraded")]
    assert {one.attributes["tessera.source"] for one in degraded} == {"popular"}
    assert not any(one.failed for one in degraded)
