"""The API's client of the decoder, against a real one."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.circuit_breaker import CircuitBreaker
from app.decoder.settings import DecoderSettings
from app.live_decoding import LiveDecoding, LiveDecodingUnavailable, LiveRequest
from model_store.bundle import Bundle
from model_store.prefix_trie import EligibleItems
from tests.app.running_decoder import RunningDecoder, running_decoder, until_ready
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

ITEMS = 60
REQUEST = LiveRequest(
    version="tiny-1",
    history=np.array([1, 2, 3], dtype=np.int32),
    n=5,
    beam_width=10,
    excluded=np.array([7, 4, 7], dtype=np.int32),
    eligible=None,
    deadline_ms=20_000,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), items=ITEMS)


@pytest.fixture
def settings(bundle: Bundle) -> DecoderSettings:
    return DecoderSettings(store=bundle.path.parent, queue=3, beam_width=10)


@pytest.fixture
async def decoder(settings: DecoderSettings, tmp_path: Path) -> AsyncIterator[RunningDecoder]:
    async with running_decoder(settings, tmp_path / "decoder.sock") as decoder:
        await until_ready(decoder)
        yield decoder


@pytest.fixture
async def live(decoder: RunningDecoder) -> AsyncIterator[LiveDecoding]:
    live = LiveDecoding(decoder.address)
    yield live
    await live.aclose()


async def reason_of(live: LiveDecoding, request: LiveRequest) -> str:
    with pytest.raises(LiveDecodingUnavailable) as caught:
        await live.decode(request)
    return caught.value.reason


async def test_an_answer_holds_eligible_items_best_first(live: LiveDecoding, bundle: Bundle) -> None:
    mask = np.zeros(ITEMS, dtype=np.bool_)
    mask[:20] = True
    answer = await live.decode(replace(REQUEST, n=30, eligible=EligibleItems.from_mask(bundle.trie, mask)))
    assert answer.items.dtype == np.int32
    assert answer.scores.dtype == np.float32
    assert set(answer.items.tolist()) == set(range(20)) - {4, 7}
    assert np.all(np.diff(answer.scores) <= 0)
    assert answer.generator == "torch"
    assert answer.decode_ms > 0
    assert await live.ready()


async def test_equal_requests_share_one_decode(live: LiveDecoding, decoder: RunningDecoder) -> None:
    same = replace(REQUEST, excluded=np.array([4, 7], dtype=np.int32), deadline_ms=19_000)
    with decoder.busy():
        asked = [asyncio.create_task(live.decode(request)) for request in (REQUEST, same, REQUEST, same)]
        other = asyncio.create_task(live.decode(replace(REQUEST, n=6)))
        await asyncio.sleep(0.1)
    answers = await asyncio.gather(*asked)
    assert all(answer is answers[0] for answer in answers)
    assert len((await other).items) == 6
    assert await decoder.metric("tessera_decoder_requests_total", status="200") == 2


async def test_a_query_and_candidates_make_another_request(live: LiveDecoding, decoder: RunningDecoder) -> None:
    candidates = np.array([9, 5, 9, 30], dtype=np.int32)
    different = [
        REQUEST,
        replace(REQUEST, query="warm socks"),
        replace(REQUEST, query="warm wool"),
        replace(REQUEST, candidates=candidates),
        replace(REQUEST, candidates=candidates, query="warm socks"),
        replace(REQUEST, candidates=candidates[:1]),
    ]
    same = replace(REQUEST, candidates=candidates[1:])
    with decoder.busy():
        asked = [asyncio.create_task(live.decode(request)) for request in (different[3], same)]
        await asyncio.sleep(0.1)
    assert len({id(answer) for answer in await asyncio.gather(*asked)}) == 1
    answers = [await live.decode(request) for request in different]
    assert len({tuple(answer.scores.tolist()) for answer in answers}) == len(different)
    assert set(answers[3].items.tolist()) == {5, 9, 30}
    empty = replace(REQUEST, history=np.empty(0, np.int32), query="warm socks")
    assert len((await live.decode(empty)).items) == 5


async def test_a_caller_that_leaves_does_not_take_the_decode_from_the_others(
    live: LiveDecoding, decoder: RunningDecoder
) -> None:
    with decoder.busy():
        first, second = (asyncio.create_task(live.decode(REQUEST)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.sleep(0.05)
    assert len((await second).items) == 5
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_when_the_last_caller_leaves_the_decode_is_dropped(live: LiveDecoding, decoder: RunningDecoder) -> None:
    with decoder.busy():
        engaged = asyncio.create_task(live.decode(replace(REQUEST, n=1)))
        await asyncio.sleep(0.1)
        leaving = asyncio.create_task(live.decode(REQUEST))
        await decoder.waits(1)
        leaving.cancel()
        await decoder.waits(0)
    await engaged


async def test_the_deadline_is_kept_by_the_caller(live: LiveDecoding, decoder: RunningDecoder) -> None:
    with decoder.busy():
        begin = time.monotonic()
        assert await reason_of(live, replace(REQUEST, deadline_ms=80)) == "deadline"
        assert time.monotonic() - begin < 0.5
    assert not live.breaker_open
    assert len((await live.decode(REQUEST)).items) == 5


async def test_a_patient_caller_outlives_the_impatient_one_it_joined(
    live: LiveDecoding, decoder: RunningDecoder
) -> None:
    with decoder.busy():
        hasty = asyncio.create_task(reason_of(live, replace(REQUEST, deadline_ms=100)))
        await asyncio.sleep(0.02)
        patient = asyncio.create_task(live.decode(REQUEST))
        assert await hasty == "deadline"
        await asyncio.sleep(0.1)
    assert len((await patient).items) == 5


async def test_a_full_queue_and_an_unknown_version_are_told_apart(live: LiveDecoding, decoder: RunningDecoder) -> None:
    with decoder.busy():
        asked = [asyncio.create_task(live.decode(replace(REQUEST, n=1)))]
        await asyncio.sleep(0.1)
        asked += [asyncio.create_task(live.decode(replace(REQUEST, n=n))) for n in (2, 3, 4)]
        await decoder.waits(3)
        assert await reason_of(live, REQUEST) == "queue_full"
    await asyncio.gather(*asked)
    assert await reason_of(live, replace(REQUEST, version="missing")) == "version"
    assert not live.breaker_open


async def test_its_own_bound_holds_before_the_decoders(decoder: RunningDecoder) -> None:
    live = LiveDecoding(decoder.address, max_in_flight=1)
    with decoder.busy():
        first = asyncio.create_task(live.decode(REQUEST))
        await asyncio.sleep(0.05)
        assert await reason_of(live, replace(REQUEST, n=6)) == "queue_full"
    await first
    await live.aclose()


async def test_the_breaker_opens_without_a_decoder_and_closes_when_it_is_back(
    settings: DecoderSettings, tmp_path: Path
) -> None:
    path = tmp_path / "decoder.sock"
    live = LiveDecoding(f"unix://{path}", breaker=CircuitBreaker("decoder", failures_to_open=3, first_pause_s=0.05))
    assert [await reason_of(live, REQUEST) for _ in range(4)] == ["failed"] * 3 + ["breaker_open"]
    assert not await live.ready()
    async with running_decoder(settings, path) as decoder:
        await until_ready(decoder)
        await asyncio.sleep(0.1)
        assert len((await live.decode(REQUEST)).items) == 5
        assert not live.breaker_open
    await live.aclose()


async def test_a_decoder_that_never_answers_opens_the_breaker(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        live = LiveDecoding(f"unix://{tmp_path}/silent.sock", breaker=CircuitBreaker("decoder", failures_to_open=2))
        for n in (1, 2):
            assert await reason_of(live, replace(REQUEST, n=n, deadline_ms=50)) == "deadline"
        await asyncio.sleep(0.4)
        assert await reason_of(live, REQUEST) == "breaker_open"
        assert not await live.ready()
        await live.aclose()


async def test_no_decoder_in_the_deployment() -> None:
    live = LiveDecoding(None)
    assert not live.configured
    assert await reason_of(live, REQUEST) == "no_decoder"
    assert not await live.ready()
    await live.aclose()


async def test_closing_fails_those_who_wait(decoder: RunningDecoder) -> None:
    live = LiveDecoding(decoder.address)
    with decoder.busy():
        waiting = asyncio.create_task(reason_of(live, REQUEST))
        await asyncio.sleep(0.1)
        await live.aclose()
        assert await waiting == "failed"


def test_the_breaker_lets_one_trial_through_per_pause() -> None:
    now = 0.0
    breaker = CircuitBreaker("decoder", failures_to_open=2, first_pause_s=1, longest_pause_s=3, clock=lambda: now)
    breaker.failed()
    assert breaker.allows()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()
    now = 1.0
    assert [breaker.allows(), breaker.allows()] == [True, False]
    breaker.failed()
    now = 2.9
    assert not breaker.allows(), "the pause has doubled"
    now = 3.0
    assert breaker.allows()
    breaker.failed()
    now = 6.0
    assert breaker.allows(), "never longer than the longest"
    breaker.succeeded()
    assert not breaker.is_open
    assert [breaker.allows(), breaker.allows()] == [True, True]


def test_the_log_tells_when_a_dependency_goes_and_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    breaker = CircuitBreaker("redis", failures_to_open=2, first_pause_s=1, clock=lambda: now)
    breaker.succeeded()
    for _ in range(4):
        breaker.failed()
    now = 7.5
    breaker.succeeded()
    breaker.succeeded()
    said = [(record.levelname, vars(record)["fields"]) for record in caplog.records]
    assert said == [
        ("ERROR", {"dependency": "redis", "failures": 2}),
        ("WARNING", {"dependency": "redis", "after_s": 7.5}),
    ]


def test_the_client_brings_no_model_library_along() -> None:
    command = "import sys, app.live_decoding; print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
