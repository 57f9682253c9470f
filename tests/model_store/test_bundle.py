"""Bundles are whole or absent, and what they hold is what was published."""

import json
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle import ModelStore
from model_store.errors import BundleCorrupt, BundleNotFound, UnsupportedBundleFormat
from model_store.manifest import FileRecord, Manifest, describe_files


def publish(store: ModelStore, version: str, **fields: str) -> None:
    with store.publishing(version) as (folder, finish):
        np.save(folder / "popularity.npy", np.arange(3, dtype=np.float32))
        (folder / "llm").mkdir()
        (folder / "llm" / "weights").write_bytes(b"0123456789")
        finish(
            Manifest(
                version=version,
                created_at=f"2026-01-01T00:00:00.{len(store.versions()):06d}",
                recipe="r",
                seed=0,
                dataset="d",
                data_fingerprint="f",
                items=3,
                code_levels=4,
                codebook_size=256,
                prompt_version=1,
                max_history=50,
                config={},
                metrics={},
                versions={},
                files=describe_files(folder),
                **fields,
            )
        )


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    store = ModelStore(tmp_path / "store")
    publish(store, "a")
    return store


def test_a_published_version_opens(store):
    assert store.open("a").popularity.tolist() == [0, 1, 2]


def test_a_failed_publish_leaves_nothing(store):
    def publish_half() -> None:
        with store.publishing("b") as (folder, _):
            (folder / "half").write_text("x")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk"):
        publish_half()
    assert store.versions() == ["a"]
    assert [path.name for path in store.root.iterdir()] == ["a"]


def test_a_version_is_never_overwritten(store):
    with pytest.raises(BundleCorrupt, match="already published"):
        publish(store, "a")


@pytest.mark.parametrize("damage", ["missing", "longer", "changed"])
def test_damage_is_found_at_open_and_names_the_file(store, damage):
    path = store.root / "a" / "llm" / "weights"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"0123456789+" if damage == "longer" else b"9876543210")
    with pytest.raises(BundleCorrupt, match="weights"):
        store.open("a")


def test_parts_that_are_not_read_are_not_digested_but_must_be_there(store):
    path = store.root / "a" / "llm" / "weights"
    path.write_bytes(b"9876543210")
    store.open("a", skip=("llm/",))
    path.unlink()
    with pytest.raises(BundleCorrupt, match="missing"):
        store.open("a", skip=("llm/",))


def test_a_newer_format_is_its_own_error(store):
    path = store.root / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(UnsupportedBundleFormat, match="format 99"):
        store.open("a")


def test_a_newer_format_with_new_fields_is_still_that_error(store):
    path = store.root / "a" / "manifest.json"
    path.write_text(json.dumps({"format_version": 99, "shape": "unheard of"}))
    with pytest.raises(UnsupportedBundleFormat, match="format 99"):
        store.open("a")


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 1}', "not json"])
def test_a_manifest_that_is_none_is_corrupt(store, text):
    (store.root / "a" / "manifest.json").write_text(text)
    with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
        store.open("a")


def test_nothing_is_active_until_a_version_is_activated(store):
    with pytest.raises(BundleNotFound, match="no active version"):
        store.open()
    store.activate("a")
    assert store.open().version == "a"


def test_rollback_returns_to_the_version_before_and_again(store):
    publish(store, "b")
    store.activate("a")
    store.activate("b")
    assert store.rollback() == "a"
    assert store.active() == "a"
    assert store.rollback() == "b"


def test_a_damaged_version_cannot_be_activated(store):
    publish(store, "b")
    store.activate("a")
    (store.root / "b" / "llm" / "weights").unlink()
    with pytest.raises(BundleCorrupt):
        store.activate("b")
    assert store.active() == "a"


def test_prune_keeps_the_newest_the_active_and_the_previous(store):
    for version in "bcde":
        publish(store, version)
    store.activate("a")
    store.activate("b")
    assert store.prune(keep=1) == ["c", "d"]
    assert store.versions() == ["a", "b", "e"]


@pytest.mark.parametrize("version", ["../x", "", ".hidden", "a/b"])
def test_a_version_cannot_name_a_path_outside_the_store(store, version):
    with pytest.raises(BundleNotFound):
        store.open(version)


def test_a_manifest_of_the_first_format_opens_and_names_its_own_cache_entries(store):
    path = store.root / "a" / "manifest.json"
    old = json.loads(path.read_text()) | {"format_version": 1}
    del old["extends"], old["cache_version"]
    path.write_text(json.dumps(old))
    bundle = store.open("a")
    assert (bundle.manifest.extends, bundle.cache_version) == (None, "a")


def test_extensions_are_counted_along_the_line_and_share_its_cache_entries(store):
    assert store.next_extension(store.open("a")) == "a+1"
    publish(store, "a+1", extends="a", cache_version="a")
    publish(store, "a+2", extends="a+1", cache_version="a")
    publish(store, "b")
    for version in ("a", "a+1", "a+2"):
        assert store.open(version).cache_version == "a"
        assert store.next_extension(store.open(version)) == "a+3"
    assert [bundle.version for bundle in store.line_of("a")] == ["a", "a+1", "a+2"]
    assert store.next_extension(store.open("b")) == "b+1"


def test_a_version_and_its_extensions_are_one_language_model_and_others_are_not(store):
    publish(store, "a+1", extends="a", cache_version="a")
    publish(store, "b")
    (store.root / "b" / "llm" / "weights").write_bytes(b"9876543210")
    (store.root / "b" / "manifest.json").unlink()
    publish_again = describe_files(store.root / "b")
    a, extended = store.manifest("a"), store.manifest("a+1")
    assert a.same_language_model(extended)
    assert not a.same_language_model(extended.model_copy(update={"files": publish_again}))
    assert not a.same_language_model(extended.model_copy(update={"max_history": 51}))


def test_versions_that_differ_in_their_adapters_weights_alone_have_one_base_model(store):
    plain = store.manifest("a")
    weights, config = "llm/adapter/adapter_model.safetensors", "llm/adapter/adapter_config.json"

    def with_adapter(content, rank):
        digests = {weights: FileRecord(sha256=content, size=1), config: FileRecord(sha256=rank, size=1)}
        return plain.model_copy(update={"files": plain.files | digests})

    one = with_adapter("1", "r4")
    assert one.same_language_model(with_adapter("1", "r4"))
    assert one.same_base_model(with_adapter("2", "r4"))
    assert not one.same_language_model(with_adapter("2", "r4"))
    assert not one.same_base_model(with_adapter("2", "r8")), "it may not fit"
    assert not one.same_base_model(plain)
    assert not plain.same_base_model(one)
    assert plain.same_base_model(plain)


def test_prune_keeps_the_newest_of_a_line_as_long_as_any_of_it_stays(store):
    """Or the next extension would take a name, and codes, that meant something else."""
    publish(store, "a+1", extends="a", cache_version="a")
    publish(store, "a+2", extends="a", cache_version="a")
    for version in "bcd":
        publish(store, version)
    store.activate("a")
    assert store.prune(keep=2) == ["a+1", "b"]
    assert store.versions() == ["a", "a+2", "c", "d"]
    store.activate("c")
    store.activate("d")
    assert store.prune(keep=1) == ["a", "a+2"]
