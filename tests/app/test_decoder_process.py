"""The decoder process: what it answers, what it refuses, and what it does not bother to decode."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.decode_wire import pack_mask
from app.decoder.settings import DecoderSettings, decoder_settings
from model_store.bundle import Bundle, ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from model_store.prefix_trie import EligibleItems
from tests.app.running_decoder import RunningDecoder, running_decoder, until_ready
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

ITEMS = 60


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bundle(store: Path) -> Bundle:
    return build_tiny_bundle(store, items=ITEMS)


@pytest.fixture
def settings(store: Path) -> DecoderSettings:
    return DecoderSettings(store=store, queue=6, batch=4, beam_width=10, active_poll_ms=50)


@pytest.fixture
async def decoder(settings: DecoderSettings, bundle: Bundle, tmp_path: Path) -> AsyncIterator[RunningDecoder]:
    async with running_decoder(settings, tmp_path / "decoder.sock") as decoder:
        await until_ready(decoder)
        yield decoder


def body(**changes: Any) -> dict[str, Any]:
    return {"version": "tiny-1", "history": [1, 2, 3], "n": 5, "beam_width": 10, "deadline_ms": 20_000} | changes


async def ask(decoder: RunningDecoder, **changes: Any) -> httpx.Response:
    return await decoder.client.post("/decode", json=body(**changes))


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["type"].removeprefix("urn:tessera:problem:")


async def test_answers_are_those_of_the_decoder(decoder: RunningDecoder, bundle: Bundle) -> None:
    mask = np.zeros(ITEMS, dtype=np.bool_)
    mask[::2] = True
    response = await ask(decoder, excluded=[4, 2, 4], eligible=pack_mask(mask), n=7)
    request = DecodeRequest(
        history=np.array([1, 2, 3], dtype=np.int32),
        n=7,
        beam_width=10,
        excluded=np.array([2, 4], dtype=np.int32),
        eligible=EligibleItems.from_mask(bundle.trie, mask),
    )
    expected = TorchDecoder.from_bundle(bundle).decode([request])[0]
    answer = response.json()
    assert answer["items"] == [one.item for one in expected]
    assert answer["scores"] == pytest.approx([one.score for one in expected], abs=1e-4)
    assert (answer["version"], answer["generator"]) == ("tiny-1", "torch")
    assert answer["decode_ms"] > 0
    assert all(item % 2 == 0 and item not in (2, 4) for item in answer["items"])


async def test_queries_and_candidates_are_decoded_with_or_without_a_history(
    decoder: RunningDecoder, bundle: Bundle
) -> None:
    reference = TorchDecoder.from_bundle(bundle)
    for history in ([], [1, 2, 3]):
        for candidates in (None, [7, 30, 7, 12], []):
            response = await ask(decoder, history=history, query="warm socks", candidates=candidates, n=7)
            request = DecodeRequest(
                history=np.array(history, dtype=np.int32),
                n=7,
                beam_width=10,
                query="warm socks",
                candidates=None if candidates is None else np.array(candidates, dtype=np.int32),
            )
            (expected,) = reference.decode([request])
            assert response.json()["items"] == [one.item for one in expected]
            assert response.json()["scores"] == pytest.approx([one.score for one in expected], abs=1e-4)


async def test_nothing_eligible_is_an_empty_answer(decoder: RunningDecoder) -> None:
    nothing = pack_mask(np.zeros(ITEMS, dtype=np.bool_))
    assert (await ask(decoder, eligible=nothing)).json()["items"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"history": []},
        {"history": [ITEMS]},
        {"history": [-1]},
        {"excluded": [ITEMS]},
        {"n": 0},
        {"n": 100_000},
        {"beam_width": 0},
        {"deadline_ms": 0},
        {"eligible": "not base64!"},
        {"eligible": "AAAA"},
        {"query": ""},
        {"query": "a" * 501},
        {"query": 5},
        {"candidates": [ITEMS]},
        {"candidates": [1] * 1001},
        {"surprise": 1},
    ],
)
async def test_a_request_that_makes_no_sense_is_a_422(decoder: RunningDecoder, changes: dict[str, Any]) -> None:
    assert problem(await ask(decoder, **changes)) == (422, "invalid-request")


async def test_a_body_that_is_no_json_or_too_large_is_refused(decoder: RunningDecoder) -> None:
    assert problem(await decoder.client.post("/decode", content=b"{"))[0] == 422
    assert problem(await decoder.client.post("/decode", content=b" " * (9 << 20)))[0] == 413


async def test_the_queue_is_bounded(decoder: RunningDecoder) -> None:
    with decoder.busy():
        first = asyncio.create_task(ask(decoder, history=[9]))
        await asyncio.sleep(0.1)
        waiting = [asyncio.create_task(ask(decoder, history=[number])) for number in range(6)]
        await decoder.waits(6)
        refused = await ask(decoder)
        assert problem(refused) == (429, "decode-queue-full")
        assert refused.headers["retry-after"] == "1"
    assert [answer.status_code for answer in await asyncio.gather(first, *waiting)] == [200] * 7


async def test_what_waits_is_decoded_together(decoder: RunningDecoder) -> None:
    with decoder.busy():
        first = asyncio.create_task(ask(decoder, history=[9]))
        await asyncio.sleep(0.1)
        before = await decoder.metric("tessera_decoder_batch_size_count")
        others = [asyncio.create_task(ask(decoder, history=[number])) for number in range(4)]
        await decoder.waits(4)
    assert {answer.status_code for answer in await asyncio.gather(first, *others)} == {200}
    assert await decoder.metric("tessera_decoder_batch_size_count") == before + 1


async def test_a_passed_deadline_is_a_504_and_is_not_decoded(decoder: RunningDecoder) -> None:
    with decoder.busy():
        first = asyncio.create_task(ask(decoder, history=[9]))
        await asyncio.sleep(0.1)
        assert problem(await ask(decoder, deadline_ms=50)) == (504, "deadline-passed")
        assert await decoder.metric("tessera_decoder_queue_depth") == 0
    await first
    await ask(decoder)
    # The first and the last; their batches hold one each.
    assert await decoder.metric("tessera_decoder_batch_size_sum") == 2
    assert await decoder.metric("tessera_decoder_dropped_total", reason="deadline") == 1


async def test_a_client_that_has_gone_is_not_decoded_for(decoder: RunningDecoder) -> None:
    with decoder.busy():
        first = asyncio.create_task(ask(decoder, history=[9]))
        await asyncio.sleep(0.1)
        impatient = asyncio.create_task(ask(decoder))
        await decoder.waits(1)
        impatient.cancel()
        await decoder.waits(0)
    await first
    assert await decoder.metric("tessera_decoder_batch_size_sum") == 1
    assert await decoder.metric("tessera_decoder_dropped_total", reason="client_gone") == 1


async def test_a_version_is_opened_on_demand_and_the_oldest_is_let_go(decoder: RunningDecoder, store: Path) -> None:
    for number in (2, 3):
        build_tiny_bundle(store, version=f"tiny-{number}", items=ITEMS, seed=number, activate=False)
        assert (await ask(decoder, version=f"tiny-{number}")).json()["version"] == f"tiny-{number}"
    versions = (await decoder.client.get("/health/ready")).json()["versions"]
    assert len(versions) == 2
    assert "tiny-3" in versions
    assert await decoder.metric("tessera_decoder_loaded_versions") == 2


async def test_a_newly_active_version_is_loaded_before_anyone_asks(decoder: RunningDecoder, store: Path) -> None:
    build_tiny_bundle(store, version="tiny-2", items=ITEMS, seed=2)
    async with asyncio.timeout(20):
        while "tiny-2" not in (await decoder.client.get("/health/ready")).json()["versions"]:
            await asyncio.sleep(0.02)
    assert (await ask(decoder)).status_code == 200, "the version before is still there"


async def test_versions_that_cannot_be_decoded_are_a_409(decoder: RunningDecoder, store: Path) -> None:
    assert problem(await ask(decoder, version="missing")) == (409, "version-not-loaded")
    assert problem(await ask(decoder, version="../etc"))[0] == 409
    broken = build_tiny_bundle(store, version="broken", seed=4, activate=False)
    (broken.llm_path / "model.safetensors").write_bytes(b"0" * (broken.llm_path / "model.safetensors").stat().st_size)
    answer = await ask(decoder, version="broken")
    assert problem(answer)[0] == 409
    assert "model.safetensors" in answer.json()["detail"]
    assert (await ask(decoder)).status_code == 200
    assert ModelStore(store).active() == "tiny-1"


async def test_it_waits_for_the_first_published_version(settings: DecoderSettings, tmp_path: Path) -> None:
    async with running_decoder(settings, tmp_path / "decoder.sock") as decoder:
        assert (await decoder.client.get("/health/live")).status_code == 200
        early = await decoder.client.get("/health/ready")
        assert (early.status_code, early.json()["status"]) == (503, "not_ready")
        build_tiny_bundle(settings.store, items=ITEMS)
        await until_ready(decoder)
        assert (await ask(decoder)).status_code == 200


async def test_metrics_count_by_status(decoder: RunningDecoder) -> None:
    await ask(decoder)
    await ask(decoder, n=0)
    assert await decoder.metric("tessera_decoder_requests_total", status="200") == 1
    assert await decoder.metric("tessera_decoder_requests_total", status="422") == 1
    assert await decoder.metric("tessera_decoder_stage_seconds_count", stage="decode") == 1
    assert await decoder.metric("tessera_decoder_beams_total") == 10


async def test_metrics_tell_where_the_time_of_a_decode_went_and_what_was_masked(
    decoder: RunningDecoder, bundle: Bundle
) -> None:
    async def counted(name: str, stage: str) -> float:
        return await decoder.metric(f"tessera_decoder_{name}", stage=stage)

    stages = ("render", "prompt", "beams", "select")
    assert await counted("steps_total", "prompt") == 0, "warming up does not count"
    await ask(decoder)
    assert [await counted("stage_seconds_count", stage) for stage in ("decode", *stages)] == [1] * 5
    within = [await counted("stage_seconds_sum", stage) for stage in stages]
    assert min(within) > 0
    assert sum(within) <= await counted("stage_seconds_sum", "decode")
    assert await counted("steps_total", "prompt") == 1
    assert 1 <= await counted("steps_total", "beams") < bundle.trie.levels
    assert await decoder.metric("tessera_decoder_masked_share_count") == 1
    assert await decoder.metric("tessera_decoder_masked_share_sum") == 0, "nothing was filtered"

    await ask(decoder, eligible=pack_mask(np.arange(ITEMS) < ITEMS // 3))
    assert 0.3 < await decoder.metric("tessera_decoder_masked_share_sum") < 1
    await ask(decoder, candidates=[3, 4, 5])
    assert await counted("steps_total", "candidates") == 1
    assert await decoder.metric("tessera_decoder_masked_share_count") == 2


def test_it_listens_to_this_machine_alone_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder_settings(address="unix:///run/decoder.sock").socket_path == Path("/run/decoder.sock")
    assert decoder_settings(address="http://[::1]:9000").host_and_port == ("::1", 9000)
    with pytest.raises(TesseraError, match="TESSERA_DECODER_ALLOW_REMOTE"):
        decoder_settings(address="http://0.0.0.0:8081")
    assert decoder_settings(address="http://0.0.0.0:8081", allow_remote=True).allow_remote
    with pytest.raises(TesseraError, match="expected http://host:port"):
        decoder_settings(address="https://127.0.0.1:8081")
    monkeypatch.setenv("TESSERA_DECODER_QUEUE", "0")
    with pytest.raises(TesseraError, match="TESSERA_DECODER_QUEUE"):
        decoder_settings()


def test_settings_survive_the_way_to_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = decoder_settings(store=Path("/models"), engine="torch", threads=3, beam_width=7)
    for name, value in chosen.to_environment().items():
        monkeypatch.setenv(name, value)
    assert decoder_settings() == chosen
