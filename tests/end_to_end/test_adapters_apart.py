"""Versions that keep their adapter apart: trained, published, decoded by both engines, refreshed, extended."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from safetensors.numpy import load_file, save_file

from app import embedded_redis
from app.decoder.loaded_models import LoadedModels
from app.decoder.metrics import DecoderMetrics
from app.decoder.settings import DecoderSettings
from model_store.bundle import Bundle
from model_store.cache_keys import Keys
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.decoders.vllm.decoder import VLLMDecoder
from model_store.errors import BundleCorrupt, DecoderUnusable
from model_store.manifest import ADAPTER_FOLDER, ADAPTER_WEIGHTS
from offline.add_items import add_items
from offline.evaluate import PER_POSITION, evaluate
from offline.redis_connection import connect
from offline.refresh.config import RefreshConfig
from offline.refresh.histories import import_histories
from offline.refresh.user_refresh import UserRefresh
from tests.adapter_versions import APART, SHARED_ROWS, AdapterVersions
from tests.cached_entries import packed_entry

pytestmark = pytest.mark.end_to_end

ARCHITECTURES = ("scratch:tiny", "qwen3", "llama")
HISTORIES = [np.array(items, dtype=np.int32) for items in ([7], [1, 2, 3], list(range(20, 32)))]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> AdapterVersions:
    return AdapterVersions(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest, versions: AdapterVersions) -> tuple[Bundle, Bundle]:
    """The same training, its adapter merged and kept apart."""
    return versions.train(request.param), versions.train(request.param, APART)


@pytest.fixture(scope="module")
def apart(versions: AdapterVersions) -> Bundle:
    return versions.train("scratch:tiny", APART, SHARED_ROWS)


@pytest.fixture(scope="module")
def other(versions: AdapterVersions) -> Bundle:
    """Another adapter on the same base model."""
    return versions.train("scratch:tiny", APART, SHARED_ROWS, "training.epochs=4")


def scores(decoder: Decoder, bundle: Bundle) -> np.ndarray:
    items = np.arange(bundle.manifest.items, dtype=np.int32)
    return np.stack([decoder.score_items(history, items) for history in HISTORIES])


def torch_scores(bundle: Bundle) -> np.ndarray:
    return scores(TorchDecoder.from_bundle(bundle, device="cpu"), bundle)


def without_adapter(bundle: Bundle) -> Bundle:
    files = {name: record for name, record in bundle.manifest.files.items() if not name.startswith(ADAPTER_FOLDER)}
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}))


def test_a_version_with_its_adapter_apart_scores_like_the_same_one_merged(pair: tuple[Bundle, Bundle]) -> None:
    merged, apart = pair
    assert merged.adapter_path is None
    assert {name for name in apart.manifest.files if name.startswith(ADAPTER_FOLDER)} == {
        ADAPTER_WEIGHTS,
        f"{ADAPTER_FOLDER}adapter_config.json",
    }
    assert merged.manifest.metrics["language_model"] == apart.manifest.metrics["language_model"]
    expected = torch_scores(merged)
    np.testing.assert_allclose(torch_scores(apart), expected, atol=1e-4)
    assert np.abs(torch_scores(without_adapter(apart)) - expected).max() > 0.1, "the adapter is not for nothing"


@pytest.mark.vllm
def test_vllm_scores_the_unmerged_adapter_like_the_merged_model(pair: tuple[Bundle, Bundle]) -> None:
    merged, apart = pair
    decoder = VLLMDecoder(apart)
    try:
        check = decoder.self_check(TorchDecoder.from_bundle(apart, device="cpu"))
        assert check.largest_difference < 1e-3
        assert check.compared > 20
        np.testing.assert_allclose(scores(decoder, apart), torch_scores(merged), atol=1e-3)
        requests = [DecodeRequest(history=history, n=10, beam_width=10) for history in HISTORIES]
        theirs = TorchDecoder.from_bundle(merged, device="cpu").decode(requests)
        for ours, expected in zip(decoder.decode(requests), theirs, strict=True):
            assert [one.item for one in ours] == [one.item for one in expected]
    finally:
        decoder.close()


@pytest.mark.vllm
def test_an_architecture_that_vllm_adapts_not_is_refused_and_the_error_says_what_to_do(
    versions: AdapterVersions,
) -> None:
    bundle = versions.train("gpt2", APART)
    assert np.isfinite(torch_scores(bundle)).all()
    with pytest.raises(DecoderUnusable, match=r"no adapters for GPT2LMHeadModel.*training\.lora\.merge=true.*torch"):
        VLLMDecoder(bundle)


def engines() -> set[int]:
    running = [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]
    return {child.pid for child in running if "resource_tracker" not in " ".join(child.cmdline())}


@pytest.mark.vllm
def test_versions_that_differ_in_their_adapter_alone_share_an_engine_and_not_their_scores(
    versions: AdapterVersions, apart: Bundle, other: Bundle
) -> None:
    assert apart.manifest.same_base_model(other.manifest)
    assert not apart.manifest.same_language_model(other.manifest)
    merged = versions.train("scratch:tiny", SHARED_ROWS)
    assert not apart.manifest.same_base_model(merged.manifest)
    extended = added(versions, apart)
    expected = {bundle.version: torch_scores(bundle) for bundle in (apart, other)}
    assert np.abs(expected[apart.version] - expected[other.version]).max() > 0.1

    async def check() -> None:
        settings = DecoderSettings(store=versions.store.root, batch=4, beam_width=10, keep_versions=2)
        models = LoadedModels(versions.store, settings, "vllm", DecoderMetrics())
        before = engines()
        try:
            first = await models.get(apart.version)
            started = engines() - before
            second = await models.get(other.version)
            assert engines() - before == started
            assert (second.engine, second.engine.holders) == (first.engine, 2)
            assert second.legal_mass != first.legal_mass, "it was checked for itself"
            for _ in range(2):
                # All at once, and again with prompts that are in the prefix cache.
                turns = [first, second, second, first]
                found = await asyncio.gather(
                    *(asyncio.to_thread(scores, model.decoder, model.bundle) for model in turns)
                )
                for model, mine in zip(turns, found, strict=True):
                    np.testing.assert_allclose(mine, expected[model.bundle.version], atol=1e-3)
            third = await models.get(extended.version)
            assert engines() - before == started
            request = DecodeRequest(history=HISTORIES[1], n=10, beam_width=10)
            found_items, expected_items = (
                [one.item for one in decoder.decode([request])[0]]
                for decoder in (third.decoder, TorchDecoder.from_bundle(extended, device="cpu"))
            )
            assert found_items == expected_items
        finally:
            await models.close()

    asyncio.run(check())


@pytest.mark.vllm
def test_a_version_is_loaded_anew_when_the_engine_it_would_share_has_died(
    versions: AdapterVersions, apart: Bundle, other: Bundle
) -> None:
    async def check() -> None:
        settings = DecoderSettings(store=versions.store.root, batch=4)
        models = LoadedModels(versions.store, settings, "vllm", DecoderMetrics())
        before = engines()
        try:
            first = await models.get(apart.version)
            for process in engines() - before:
                psutil.Process(process).kill()
            second = await models.get(other.version)
            assert second.engine is not first.engine
            assert models.versions == [other.version]
            np.testing.assert_allclose(scores(second.decoder, other), torch_scores(other), atol=1e-3)
        finally:
            await models.close()

    asyncio.run(check())


def test_torch_loads_each_adapter_with_a_copy_of_the_base(
    versions: AdapterVersions, apart: Bundle, other: Bundle
) -> None:
    """It merges them, so that no copy serves two."""
    extended = added(versions, other)

    async def check() -> None:
        settings = DecoderSettings(store=versions.store.root, batch=4, beam_width=10, keep_versions=3)
        models = LoadedModels(versions.store, settings, "torch", DecoderMetrics())
        first, second = await models.get(apart.version), await models.get(other.version)
        assert first.engine is not second.engine
        assert (await models.get(extended.version)).engine is second.engine
        for model in (first, second):
            np.testing.assert_allclose(scores(model.decoder, model.bundle), torch_scores(model.bundle), atol=1e-5)
        await models.close()

    asyncio.run(check())


def added(versions: AdapterVersions, bundle: Bundle) -> Bundle:
    """An extension of the bundle by two items."""
    some = bundle.catalog.select(np.array([3, 4]))
    names = tuple(f"new-{number}-{len(versions.store.versions())}" for number in range(2))
    return add_items(versions.store, bundle, replace(some, item_ids=names))


def test_an_extension_has_the_adapter_and_decodes_with_it(versions: AdapterVersions, other: Bundle) -> None:
    extended = versions.store.open(added(versions, other).version)
    assert extended.manifest.same_language_model(other.manifest)
    assert (extended.path / ADAPTER_WEIGHTS).samefile(other.path / ADAPTER_WEIGHTS)
    decoder = TorchDecoder.from_bundle(extended, device="cpu")
    shared = TorchDecoder.from_bundle(other, device="cpu").for_version(extended)
    np.testing.assert_allclose(scores(decoder, extended), scores(shared, extended), atol=1e-5)
    with_base_alone = TorchDecoder.from_bundle(without_adapter(extended), device="cpu")
    assert np.abs(scores(decoder, extended) - scores(with_base_alone, extended)).max() > 0.1


def test_evaluation_measures_what_the_merged_version_measures(
    versions: AdapterVersions, pair: tuple[Bundle, Bundle]
) -> None:
    merged, apart = (
        evaluate(
            bundle,
            TorchDecoder.from_bundle(bundle, device="cpu"),
            versions.dataset,
            "test",
            10,
            constraint="position",
        ).protocols
        for bundle in pair
    )
    for system in ("tessera", PER_POSITION):
        assert apart["unseen"][system] == pytest.approx(merged["unseen"][system], abs=1e-6)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    embedded_redis.stop(tmp_path)


def test_a_refresh_fills_the_cache_with_what_the_adapter_decodes(
    versions: AdapterVersions, apart: Bundle, home: Path
) -> None:
    redis, keys = connect(embedded_redis.ensure_running(home)), Keys("tessera")
    config = RefreshConfig(k=5, beam_width=10)
    import_histories(redis, keys, versions.dataset, config)

    def entries_of(bundle: Bundle) -> list[bytes]:
        decoder = TorchDecoder.from_bundle(bundle, device="cpu")
        users = versions.dataset.user_ids
        UserRefresh(redis, keys, bundle, decoder, config).refresh(users)
        entries = [packed_entry(redis, keys, bundle.entry_layout, user) for user in users]
        return [entry[-5:] for entry in entries if entry is not None]

    with_adapter = entries_of(apart)
    assert len(with_adapter) == len(versions.dataset.user_ids)
    assert entries_of(without_adapter(apart)) != with_adapter


def test_a_changed_adapter_is_found_when_the_version_is_opened(versions: AdapterVersions) -> None:
    bundle = versions.train("scratch:tiny", APART, "seed=7")
    path = bundle.path / ADAPTER_WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"adapter_model\.safetensors.*sha256"):
        versions.store.open(bundle.version)


def test_a_version_whose_adapter_is_a_pickle_is_refused(apart: Bundle) -> None:
    files = dict(apart.manifest.files)
    files[f"{ADAPTER_FOLDER}adapter_model.bin"] = files.pop(ADAPTER_WEIGHTS)
    pickled = Bundle(apart.path, apart.manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleCorrupt, match="safetensors only"):
        TorchDecoder.from_bundle(pickled, device="cpu")


@pytest.mark.parametrize("damage", ["missing", "renamed", "other shape"])
def test_an_adapter_of_another_model_is_refused(tmp_path: Path, apart: Bundle, damage: str) -> None:
    bundle = copied(apart, tmp_path)
    weights = load_file(apart.path / ADAPTER_WEIGHTS)
    name = sorted(weights)[0]
    tensor = weights.pop(name)
    if damage == "renamed":
        weights[name.replace("layers.0", "layers.9")] = tensor
    if damage == "other shape":
        weights[name] = tensor[:, :-1].copy()
    save_file(weights, bundle.path / ADAPTER_WEIGHTS)
    with pytest.raises(BundleCorrupt, match="not an adapter of GPTNeoXForCausalLM"):
        TorchDecoder.from_bundle(bundle, device="cpu")


@pytest.mark.vllm
def test_an_adapter_that_vllm_has_no_room_for_is_refused_before_anything_starts(apart: Bundle, tmp_path: Path) -> None:
    bundle = copied(apart, tmp_path)
    path = bundle.path / ADAPTER_FOLDER / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"r": 600}))
    with pytest.raises(DecoderUnusable, match=r"rank 512, this one has 600.*training\.lora\.merge=true"):
        VLLMDecoder(bundle)
    path.write_text("[]")
    with pytest.raises(BundleCorrupt, match="does not say the adapter's rank"):
        VLLMDecoder(bundle)


@pytest.mark.vllm
def test_a_broken_checkpoint_is_not_mistaken_for_one_without_adapters(apart: Bundle, tmp_path: Path) -> None:
    bundle = copied(apart, tmp_path)
    (bundle.llm_path / "config.json").write_text("{}")
    with pytest.raises(DecoderUnusable, match=r"llm.*vLLM cannot run it"):
        VLLMDecoder(bundle)


def copied(bundle: Bundle, folder: Path) -> Bundle:
    """A copy to do damage to."""
    target = folder / bundle.version
    shutil.copytree(bundle.path, target)
    return Bundle(target, bundle.manifest)
