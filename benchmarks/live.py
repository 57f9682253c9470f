"""Live answers to 16 concurrent users come at 0.6 of the rate at which the same decodes run offline in one batch.

Measured: POST /recommend with histories that nothing is cached for, so that every answer is a decode: `tessera serve`
(one worker) with its own decoder process (torch, one thread, every setting as it comes: 50 beams, 8 decodes a batch,
500 ms) and a real Redis, on loopback, for a published version of 12,000 items whose random GPT-NeoX has the layers and
width of `scratch:small`; sessions of 50 items, ten items an answer, 1, 4 and 16 users who each ask again as soon as
they are answered. An answer whose source is not `live` missed its decode, by the deadline or otherwise: it is counted,
and is not part of the rate. Beforehand the answers to a few sessions are compared with the offline decode's: the same
lists.
Floor: the same decodes by the same decoder class, one thread, in this process: one user, 4 together, 16 together, and
16 in batches as large as the decoder process makes them. What HTTP, JSON, two processes and the load generator take
comes on top, on the same cores.
"""

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from app import embedded_redis
from app.decoder.settings import DecoderSettings
from app.settings import Settings
from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.http_load import Load, load
from benchmarks.server_process import ServerProcess, started
from model_store.bundle import Bundle
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from tests.tiny_bundle import build_tiny_bundle

_ITEMS, _FIRST_LEVEL = 12_000, 244
_HIDDEN, _LAYERS = 128, 2
_HISTORY = 50
_SESSIONS = 2_000
_TOP = 10
_USERS = (1, 4, 16)
_MANY = _USERS[-1]
_COMPARED = 5
_QUEUE_BATCHES = f"{_MANY}, in batches of {DecoderSettings().batch}"
_MARKER = '"source":"live"'
_READY_S = 120.0

_SHARE_OF_OFFLINE = 0.6


@dataclass(frozen=True, slots=True)
class Batches:
    """What the decoder process says of itself: sums since its start.

    Attributes:
        count: batches it has run.
        decodes: decodes in them.
        wait_s: time that decodes waited for their batch.
        decode_s: time of the batches.
    """

    count: float
    decodes: float
    wait_s: float
    decode_s: float

    def since(self, before: "Batches") -> "Batches":
        """What came after `before`."""
        return Batches(
            self.count - before.count,
            self.decodes - before.decodes,
            self.wait_s - before.wait_s,
            self.decode_s - before.decode_s,
        )


def measure(quick: bool) -> Report:
    """Offline and live in turn."""
    # As the decoder process: operations this small gain little from a second thread, and the API has the other core.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(store=Path(folder) / "store", home=Path(folder) / "home")
        bundle = build_tiny_bundle(
            settings.store,
            items=_ITEMS,
            first_level=_FIRST_LEVEL,
            max_history=_HISTORY,
            layers=_LAYERS,
            hidden=_HIDDEN,
        )
        try:
            embedded_redis.ensure_running(settings.home)
            return _measure(settings, bundle, seconds=1.0 if quick else 4.0, rounds=3 if quick else 9)
        finally:
            embedded_redis.stop(settings.home)


def _measure(settings: Settings, bundle: Bundle, seconds: float, rounds: int) -> Report:
    random = np.random.default_rng(0)
    sessions = [random.choice(_ITEMS, _HISTORY, replace=False).astype(np.int32) for _ in range(_SESSIONS)]
    item_ids = bundle.catalog.item_ids
    bodies = settings.store.parent / "bodies"
    asked = [{"history": [item_ids[item] for item in session], "n": _TOP} for session in sessions]
    bodies.write_text("\n".join(map(json.dumps, asked)))
    together, in_queue_batches = (
        TorchDecoder.from_bundle(bundle, device="cpu", batch_size=size) for size in (_MANY, DecoderSettings().batch)
    )
    requests = [
        DecodeRequest(history=session, n=_TOP, beam_width=settings.beam_width, excluded=session) for session in sessions
    ]
    variables = {
        "TESSERA_STORE": str(settings.store),
        "TESSERA_HOME": str(settings.home),
        "TESSERA_DECODER_ENGINE": "torch",
        "TESSERA_DECODER_THREADS": "1",
    }
    loads: dict[int, list[Load]] = {users: [] for users in _USERS}
    batches: dict[int, list[Batches]] = {users: [] for users in _USERS}
    offline_s: dict[str, list[float]] = {}
    turn = itertools.count()
    with started(["tessera", "serve", "--port"], "/health/live", variables) as server:
        harness.progress("waiting for the decoder")
        _wait_for_decoder(server)
        _assert_same(server, asked[:_COMPARED], together, requests[:_COMPARED], item_ids)

        def live(users: int) -> float:
            before = _batches(settings.home)
            one = load(server.port, connections=users, seconds=seconds, users=_SESSIONS, marker=_MARKER, bodies=bodies)
            loads[users].append(one)
            batches[users].append(_batches(settings.home).since(before))
            return one.p50_us / 1e6

        def offline(name: str, users: int, decoder: TorchDecoder) -> float:
            # For as long as half a live run, so that one moment weighs no more than there.
            begin, count = time.perf_counter(), 0
            while (took := time.perf_counter() - begin) < seconds / 2 or not count:
                first = next(turn) * users % (_SESSIONS - users)
                decoder.decode(requests[first : first + users])
                count += 1
            offline_s.setdefault(name, []).append(took / count)
            return took / count

        sides: dict[str, Callable[[], float]] = {}
        for users in _USERS:
            name = f"{users}, in one batch"
            sides[name] = lambda name=name, users=users: offline(name, users, together)
            sides[f"live, {users}"] = lambda users=users: live(users)
        sides[_QUEUE_BATCHES] = lambda: offline(_QUEUE_BATCHES, _MANY, in_queue_batches)
        harness.progress("warming up")
        harness.interleaved(sides, 1)
        for kept in (*loads.values(), *batches.values(), *offline_s.values()):
            kept.clear()
        harness.progress(f"{rounds} rounds")
        harness.interleaved(sides, rounds)
    return _report(offline_s, loads, batches, rounds, seconds, settings)


def _wait_for_decoder(server: ServerProcess) -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        body = server.get("/health/ready").partition(b"\r\n\r\n")[2]
        if body and json.loads(body)["dependencies"]["decoder"]["ok"]:
            return
        time.sleep(0.1)
    raise RuntimeError(f"the decoder was not ready within {_READY_S:.0f} s")


def _assert_same(
    server: ServerProcess,
    bodies: list[dict[str, Any]],
    decoder: TorchDecoder,
    requests: list[DecodeRequest],
    item_ids: tuple[str, ...],
) -> None:
    """Live answers are what the offline side decodes."""
    for body, answer in zip(bodies, decoder.decode(requests), strict=True):
        got = httpx.post(f"http://127.0.0.1:{server.port}/recommend", json=body, timeout=10).json()
        if got["source"] != "live" or [item["item_id"] for item in got["items"]] != [item_ids[d.item] for d in answer]:
            raise AssertionError(f"the live answer is not the offline decode's: {got}")


def _batches(home: Path) -> Batches:
    """Read the decoder's own metrics; it listens on a socket under the server's home."""

    async def text() -> str:
        (path,) = home.glob("decoder-*.sock")
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
            return (await client.get("http://decoder/metrics")).text

    values = dict(line.rsplit(" ", 1) for line in asyncio.run(text()).splitlines() if not line.startswith("#"))
    prefix = "tessera_decoder_"
    names = (
        "batch_size_count",
        "batch_size_sum",
        'stage_seconds_sum{stage="wait"}',
        'stage_seconds_sum{stage="decode"}',
    )
    return Batches(*(float(values.get(prefix + name, 0)) for name in names))


def _report(
    offline_s: dict[str, list[float]],
    loads: dict[int, list[Load]],
    batches: dict[int, list[Batches]],
    rounds: int,
    seconds: float,
    settings: Settings,
) -> Report:
    def column(users: int, field: str) -> Spread:
        return Spread.of(getattr(one, field) / 1000 for one in loads[users])

    rates = {users: [(one.requests - one.unexpected) / one.seconds for one in loads[users]] for users in _USERS}
    batch_of = {name: int(name.partition(",")[0]) for name in offline_s}
    # Within a turn, so that what else the machine does meets both.
    shares = {
        name: Spread.of(rate * one / users for rate, one in zip(rates[users], offline_s[name], strict=True))
        for name, users in batch_of.items()
    }
    missed = {users: sum(one.unexpected for one in loads[users]) for users in _USERS}
    answers = {users: sum(one.requests for one in loads[users]) for users in _USERS}
    share = shares[f"{_MANY}, in one batch"].median
    claims = [
        Claim.at_most(
            f"answers that were not live, {users} user{'s' * (users > 1)}", missed[users] / answers[users], "of all", 0
        )
        for users in _USERS[:-1]
    ]
    claims.append(
        Claim.at_least(f"live answers a second to {_MANY} users against offline", share, "x", _SHARE_OF_OFFLINE)
    )
    return Report(
        tables=[
            Table(
                f"live, HTTP to HTTP: median (min..max) of {rounds} runs of {seconds:g} s",
                ("users", "p50, ms", "p95, ms", "p99, ms", "live answers/s", "not live", "generator busy"),
                [
                    (
                        str(users),
                        *(column(users, field) for field in ("p50_us", "p95_us", "p99_us")),
                        Spread.of(rates[users]),
                        f"{missed[users]} of {answers[users]:,}",
                        f"{Spread.of(one.busy for one in loads[users]).median:.0%}",
                    )
                    for users in _USERS
                ],
            ),
            Table(
                "against the same decodes offline",
                ("users", "offline, ms", "offline, users/s", "live p50/offline", "live rate/offline"),
                [
                    (
                        name,
                        (took := Spread.of(offline_s[name])).times(1000),
                        took.per_second(users),
                        column(users, "p50_us").median / (took.median * 1000),
                        shares[name],
                    )
                    for name, users in batch_of.items()
                ],
            ),
            Table(
                "in the decoder process: means of all runs",
                ("users", "decodes a batch", "wait for a batch, ms", "a batch, ms"),
                [(str(users), *_means(batches[users])) for users in _USERS],
            ),
        ],
        claims=claims,
        notes=[
            f"deadline {settings.live_deadline_ms} ms, {settings.beam_width} beams; decoder and offline on one thread"
        ],
    )


def _means(runs: list[Batches]) -> tuple[float, float, float]:
    count = sum(one.count for one in runs)
    decodes = sum(one.decodes for one in runs)
    return (
        decodes / count,
        sum(one.wait_s for one in runs) / decodes * 1000,
        sum(one.decode_s for one in runs) / count * 1000,
    )


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
