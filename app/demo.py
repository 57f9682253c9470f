"""The tour of `tessera demo`: a generated catalogue through every command, then a few answers of the running service.

It only runs commands and asks over HTTP, as a user would, in a home, a store and a Redis namespace of its own: a demo
must not touch what is served for real.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app.settings import Settings
from model_store.bundle import ModelStore
from model_store.catalog import Catalog
from model_store.errors import TesseraError

_START_S = 120.0
_REQUEST_TIMEOUT_S = 30.0
_SHOWN = 3


def run_demo(settings: Settings, *, users: int, items: int, port: int, keep_serving: bool) -> None:
    """Generate, train, refresh, serve, ask; then go on serving until interrupted, or stop.

    Raises:
        TesseraError: a command failed, or the service did not get ready.
    """
    home = (settings.home / "demo").absolute()
    own = settings.model_copy(
        # Half a second is enough for a live decode, but not while a laptop is still busy with what came before.
        update={
            "home": home,
            "store": home / "store",
            "namespace": "tessera-demo",
            "api_keys": None,
            "live_deadline_ms": 10_000,
        }
    )
    ours = {name: value for name, value in os.environ.items() if name != "TESSERA_API_KEYS"}
    environment = ours | own.to_environment() | {"TESSERA_LOG_LEVEL": "WARNING"}
    data = home / "data"
    _run(environment, "offline.generate_catalogue", "--out", str(data), "--users", str(users), "--items", str(items))
    version = _run(environment, "tessera", "train", "--data", str(data), "--recipe", "demo").splitlines()[-1]
    _run(environment, "tessera", "refresh", "--data", str(data), "--version", version)
    catalog = ModelStore(own.store).open(version).catalog
    command = [sys.executable, "-m", "tessera", "serve", "--port", str(port)]
    _announce(command)
    with subprocess.Popen(command, env=environment) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_REQUEST_TIMEOUT_S) as client:
                _wait_until_ready(client, server)
                _tour(client, catalog, _first_user(data))
            if keep_serving:
                print("\nServing; Ctrl-C stops it.", flush=True)
                server.wait()
        finally:
            server.terminate()


def _run(environment: dict[str, str], module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    _announce(command)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise TesseraError(f"demo: `{module} {arguments[0]}` ended with code {done.returncode}, see above")
    print(done.stdout, end="", flush=True)
    return done.stdout.strip()


def _announce(command: list[str]) -> None:
    shown = command[2:] if command[2] == "tessera" else ["python", *command[1:]]
    print("$", *shown, file=sys.stderr, flush=True)


def _wait_until_ready(client: httpx.Client, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        if server.poll() is not None:
            raise TesseraError(f"demo: the service ended with code {server.returncode}, see above")
        try:
            dependencies = client.get("/health/ready").json()["dependencies"]
            if all(part["ok"] for part in dependencies.values()):
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise TesseraError(f"demo: not ready within {_START_S:.0f} s; see {client.base_url}health/ready")
        time.sleep(0.2)


def _tour(client: httpx.Client, catalog: Catalog, user: str) -> None:
    cached = _show(client, catalog, "From the cache", f"/recommend/{user}?n={_SHOWN}")
    bought = cached["items"][0]["item_id"]
    event = {"user_id": user, "item_id": bought, "type": "purchase"}
    client.post("/events", json=[event]).raise_for_status()
    title = f"{user} buys {catalog.titles[catalog.index_of(bought)]!r}; decoded live"
    _show(client, catalog, title, f"/recommend/{user}?n={_SHOWN}&fresh=true")
    # Something from the middle of the shop, which the user's own list has no reason to hold.
    words = catalog.titles[len(catalog) // 2].lower()
    asked = f"/recommend/{user}?n={_SHOWN}&q={quote(words)}"
    _show(client, catalog, f"{user} asks for {words!r}", asked)
    print("\nTry:")
    for path in ("/", f"/recommend/{user}", asked, f"/similar/{bought}", "/latency", "/openapi.json"):
        print(f"  {str(client.base_url).rstrip('/')}{path}")


def _show(client: httpx.Client, catalog: Catalog, title: str, path: str) -> dict[str, Any]:
    started = time.perf_counter()
    response = client.get(path)
    took_ms = (time.perf_counter() - started) * 1000
    answer: dict[str, Any] = response.raise_for_status().json()
    print(f"\n{title}:\n  GET {path}  ->  source {answer['source']}, {took_ms:.1f} ms")
    for row in answer["items"]:
        name = catalog.titles[catalog.index_of(row["item_id"])]
        print(f"  {row['rank']}. {name:45} {row['code']:34} {row['score']:6.2f}")
    return answer


def _first_user(data: Path) -> str:
    with next(data.glob("*.inter")).open(encoding="utf-8") as lines:
        next(lines)
        return next(lines).split("\t")[0]
