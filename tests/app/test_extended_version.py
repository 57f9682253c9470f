"""New items without retraining: what a running API and a running decoder do when an extension is activated."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import redis

from app.decoder.loaded_models import LoadedModels
from app.decoder.metrics import DecoderMetrics
from app.decoder.settings import DecoderSettings
from app.decoder.version_errors import EngineRestarting
from app.settings import Settings
from model_store.bundle import Bundle, ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.prefix_trie import EligibleItems
from tests.app.conftest import Cache, RunningApp, ids, running
from tests.app.running_decoder import RunningDecoder, running_decoder, until_ready
from tests.extended_bundle import NEW_CATEGORY, extend
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
async def decoder(store: Path, bundle: Bundle, tmp_path: Path) -> AsyncIterator[RunningDecoder]:
    settings = DecoderSettings(store=store, batch=4, beam_width=10, active_poll_ms=50)
    async with running_decoder(settings, tmp_path / "decoder.sock") as decoder:
        await until_ready(decoder)
        yield decoder


@pytest.fixture
async def api(settings: Settings, stored: redis.Redis, decoder: RunningDecoder) -> AsyncIterator[RunningApp]:
    with_decoder = {"decoder_address": decoder.address, "beam_width": 10, "live_deadline_ms": 20_000}
    async with running(settings.model_copy(update=with_decoder)) as app:
        yield app


@pytest.fixture
async def models(store: Path, bundle: Bundle) -> AsyncIterator[LoadedModels]:
    settings = DecoderSettings(store=store, batch=4, beam_width=10)
    models = LoadedModels(ModelStore(store), settings, "torch", DecoderMetrics())
    yield models
    await models.close()


def language_model(decoder: RunningDecoder, version: str) -> object:
    return decoder.service.models._loaded[version].decoder._model


async def serves(api: RunningApp, version: str) -> None:
    async with asyncio.timeout(10):
        while (await api.client.get("/popular?n=1")).json()["model_version"] != version:
            await asyncio.sleep(0.01)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def loads(decoder: RunningDecoder, version: str) -> None:
    await until(lambda: version in decoder.service.models.versions)


def activate(store: Path, stored: redis.Redis, version: str) -> None:
    ModelStore(store).activate(version)
    stored.set("tessera:active", version)


async def test_entries_of_the_base_answer_after_the_extension_is_activated(
    api: RunningApp, cache: Cache, store: Path, bundle: Bundle, stored: redis.Redis
) -> None:
    cache.put_history("ann", [20])
    cache.put_entry("ann", [3, 1, 2])
    before = (await api.client.get("/recommend/ann?n=3")).json()
    activate(store, stored, extend(store, bundle).version)
    await serves(api, "tiny-1+1")
    after = (await api.client.get("/recommend/ann?n=3")).json()
    assert (before["source"], before["model_version"]) == ("cache", "tiny-1")
    assert (after["source"], after["model_version"]) == ("cache", "tiny-1+1")
    assert after["items"] == before["items"]


async def test_new_items_are_unknown_before_and_decoded_and_similar_after(
    api: RunningApp, cache: Cache, store: Path, bundle: Bundle, stored: redis.Redis
) -> None:
    cache.put_history("ann", [20, 30])
    only_new = f"/recommend/ann?n=3&strict=true&category={NEW_CATEGORY}"
    assert ids(await api.client.get(only_new)) == []
    assert (await api.client.get("/similar/new-0")).status_code == 404
    activate(store, stored, extend(store, bundle).version)
    await serves(api, "tiny-1+1")
    answer = await api.client.get(only_new)
    assert (answer.json()["source"], sorted(ids(answer))) == ("live", ["new-0", "new-1", "new-2"])
    similar = await api.client.get(f"/similar/new-0?n={ITEMS + 2}")
    assert {"new-1", "new-2", "item-0"} <= set(ids(similar))
    assert "new-0" in ids(await api.client.get(f"/similar/item-5?n={ITEMS + 2}"))
    assert "new-0" in ids(await api.client.get(f"/popular?n={ITEMS + 3}"))


async def test_a_list_decoded_under_the_extension_is_kept_for_all_of_the_line(
    api: RunningApp, cache: Cache, store: Path, bundle: Bundle, stored: redis.Redis
) -> None:
    extended = extend(store, bundle, items=30)
    activate(store, stored, extended.version)
    await serves(api, extended.version)
    cache.put_history("ann", [20, 30])
    decoded = await api.client.get("/recommend/ann?n=10")
    await api.services.recommender.settle()
    assert cache.packed("ann", version="tiny-1")
    assert not cache.packed("ann", version=extended.version)

    activate(store, stored, "tiny-1")
    await serves(api, "tiny-1")
    under_base = await api.client.get("/recommend/ann?n=10")
    old = [item for item in ids(decoded) if item in bundle.catalog]
    assert 0 < len(old) < 10, "some new, some old"
    assert ids(under_base)[: len(old)] == old, "codes the base does not know are left out, the others keep their order"


async def test_forgetting_a_user_reaches_entries_named_after_a_base_that_was_pruned(
    api: RunningApp, cache: Cache, store: Path, bundle: Bundle, stored: redis.Redis
) -> None:
    cache.put_entry("ann", [3, 1, 2])
    first = extend(store, bundle)
    second = extend(store, first)
    for version in (first, second):
        activate(store, stored, version.version)
    await serves(api, second.version)
    assert ModelStore(store).prune(keep=1) == ["tiny-1"]
    assert (await api.client.get("/recommend/ann?n=3")).json()["source"] == "cache"
    assert (await api.client.delete("/users/ann")).json()["existed"]
    assert not list(stored.scan_iter("tessera:entries:*"))


async def test_the_decoder_loads_the_language_model_once_for_a_line_of_versions(
    decoder: RunningDecoder, store: Path, bundle: Bundle
) -> None:
    extended = extend(store, bundle)
    ModelStore(store).activate(extended.version)
    await loads(decoder, extended.version)
    assert language_model(decoder, extended.version) is language_model(decoder, "tiny-1")
    other = build_tiny_bundle(store, version="other", items=ITEMS, seed=5)
    await loads(decoder, other.version)
    assert language_model(decoder, "other") is not language_model(decoder, extended.version)


async def test_a_shared_language_model_goes_with_the_last_version_of_it(
    models: LoadedModels, store: Path, bundle: Bundle
) -> None:
    base = await models.get("tiny-1")
    extended = await models.get(extend(store, bundle).version)
    engine, language_model = base.engine, weakref.ref(base.decoder._model)  # type: ignore[attr-defined]
    assert (extended.engine, engine.holders) == (engine, 2)
    del base
    await models.get(build_tiny_bundle(store, version="other", seed=5, activate=False).version)
    await until(lambda: engine.holders == 1)
    assert models.versions == [extended.bundle.version, "other"], "two are kept"
    assert language_model() is not None, "the base has gone, its language model has not"
    del extended
    await models.get(build_tiny_bundle(store, version="another", seed=6, activate=False).version)
    await until(lambda: engine.holders == 0)

    def is_gone() -> bool:
        gc.collect()
        return language_model() is None

    # Closing takes a thread, which may need a moment more.
    await until(is_gone)


async def test_a_dead_engine_takes_every_version_that_shares_it_and_all_come_back(
    models: LoadedModels, store: Path, bundle: Bundle
) -> None:
    base = await models.get("tiny-1")
    extended = await models.get(extend(store, bundle).version)
    models.engine_died(extended)
    models.engine_died(base)
    assert models.versions == []
    for version in ("tiny-1", extended.bundle.version):
        with pytest.raises(EngineRestarting, match="its engine's process ended"):
            await models.get(version)
    await until(lambda: len(models.versions) == 2 and not models.troubles)
    new = await models.get("tiny-1")
    assert new.engine is not base.engine
    assert new.engine is (await models.get(extended.bundle.version)).engine
    assert new.engine.holders == 2


async def test_a_version_whose_place_was_taken_is_not_brought_back(
    models: LoadedModels, store: Path, bundle: Bundle
) -> None:
    models.engine_died(await models.get("tiny-1"))
    await until(lambda: models.versions == ["tiny-1"])
    models.engine_died(await models.get("tiny-1"))
    for seed in (5, 6):
        await models.get(build_tiny_bundle(store, version=f"other-{seed}", seed=seed, activate=False).version)
    await until(lambda: not models.is_restarting("tiny-1"))
    assert models.versions == ["other-5", "other-6"]
    assert (await models.get("tiny-1")).bundle.version == "tiny-1", "whoever asks for it has it loaded"


@pytest.mark.vllm
async def test_vllm_starts_one_engine_for_a_line_of_versions(store: Path, bundle: Bundle) -> None:
    def engines() -> set[int]:
        running = [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]
        return {child.pid for child in running if "resource_tracker" not in " ".join(child.cmdline())}

    before = engines()
    settings = DecoderSettings(store=store, batch=4, beam_width=10, keep_versions=1)
    models = LoadedModels(ModelStore(store), settings, "vllm", DecoderMetrics())
    await models.get("tiny-1")
    started = engines() - before
    extended = await models.get(extend(store, bundle).version)
    assert engines() - before == started
    await until(lambda: extended.engine.holders == 1)
    assert models.versions == [extended.bundle.version], "the base has been let go"
    only_new = EligibleItems.from_mask(extended.bundle.trie, np.arange(ITEMS + 3) >= ITEMS)
    request = DecodeRequest(history=np.array([1, ITEMS], dtype=np.int32), n=5, beam_width=10, eligible=only_new)
    found = (await asyncio.to_thread(extended.decoder.decode, [request]))[0]
    expected = TorchDecoder.from_bundle(extended.bundle, device="cpu").decode([request])[0]
    assert [one.item for one in found] == [one.item for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-3)
    await models.close()
    await until(lambda: not engines() & started)


async def test_an_extension_that_is_damaged_leaves_the_base_decoding(
    decoder: RunningDecoder, store: Path, bundle: Bundle
) -> None:
    extended = extend(store, bundle)
    (extended.path / "item_codes.npy").write_bytes(b"0" * (extended.path / "item_codes.npy").stat().st_size)
    body = {"history": [1, 2], "n": 3, "beam_width": 10, "deadline_ms": 20_000}
    refused = await decoder.client.post("/decode", json=body | {"version": extended.version})
    assert refused.status_code == 409
    assert "item_codes.npy" in refused.json()["detail"]
    answer = await decoder.client.post("/decode", json=body | {"version": "tiny-1"})
    assert answer.status_code == 200
    assert (await decoder.service.models.get("tiny-1")).engine.holders == 1
