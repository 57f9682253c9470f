"""An extension on disk: what it shares with its base, and what it may not do."""

import os

import faiss
import numpy as np
import pytest

from model_store.bundle import ModelStore
from model_store.errors import BundleCorrupt
from model_store.publish_extension import publish_extension
from tests.extended_bundle import extend
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture
def base(tmp_path):
    return build_tiny_bundle(tmp_path / "store")


def test_the_language_model_is_on_disk_once_and_the_extension_is_whole(tmp_path, base):
    extended = ModelStore(tmp_path / "store").open(extend(tmp_path / "store", base).version)
    weights = "llm/model.safetensors"
    assert (extended.path / weights).samefile(base.path / weights)
    assert not (extended.path / "items.parquet").samefile(base.path / "items.parquet")
    assert extended.manifest.files[weights] == base.manifest.files[weights]
    assert set(extended.manifest.files) == set(base.manifest.files)


def test_where_there_are_no_links_files_are_copied(tmp_path, base, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    extended = ModelStore(tmp_path / "store").open(extend(tmp_path / "store", base).version)
    weights = "llm/model.safetensors"
    assert not (extended.path / weights).samefile(base.path / weights)
    assert (extended.path / weights).read_bytes() == (base.path / weights).read_bytes()


def test_old_items_keep_index_code_and_popularity_and_new_ones_come_after(tmp_path, base):
    extended = extend(tmp_path / "store", base)
    count = len(base.catalog)
    assert extended.catalog.item_ids[:count] == base.catalog.item_ids
    assert extended.catalog.item_ids[count:] == ("new-0", "new-1", "new-2")
    assert (extended.item_codes.codes_NL[:count] == base.item_codes.codes_NL).all()
    assert extended.popularity.tolist() == [*base.popularity.tolist(), 0, 0, 0]
    assert extended.trie.item_count == count + 3
    index = faiss.read_index(str(extended.faiss_path))
    _, found = index.search(np.asarray(extended.item_embeddings), 1)
    assert found[:, 0].tolist() == list(range(count + 3))


def test_an_extension_can_be_extended_and_both_share_the_first_ones_entries(tmp_path, base):
    first = extend(tmp_path / "store", base)
    second = extend(tmp_path / "store", first)
    assert [(b.version, b.manifest.extends, b.cache_version) for b in (first, second)] == [
        ("tiny-1+1", "tiny-1", "tiny-1"),
        ("tiny-1+2", "tiny-1+1", "tiny-1"),
    ]
    assert len(second.catalog) == len(base.catalog) + 6


def test_the_language_model_outlives_the_base(tmp_path, base):
    store = ModelStore(tmp_path / "store")
    extended = extend(tmp_path / "store", base)
    store.activate(extended.version)
    store.activate(build_tiny_bundle(tmp_path / "store", version="other", seed=1).version)
    assert store.prune(keep=1) == ["tiny-1"]
    store.open(extended.version)


def test_a_code_that_is_taken_is_refused_and_nothing_is_published(tmp_path, base):
    store = ModelStore(tmp_path / "store")
    extended = extend(tmp_path / "store", base, items=1)
    with pytest.raises(BundleCorrupt, match="unique"):
        publish_extension(store, base, extended.catalog, base.item_codes.codes_NL[:1], np.zeros((1, 16)), {})
    assert store.versions() == ["tiny-1", "tiny-1+1"]


def test_a_catalogue_that_loses_or_moves_an_item_is_refused(tmp_path, base):
    extended = extend(tmp_path / "store", base)
    with pytest.raises(ValueError, match="in their order"):
        publish_extension(
            ModelStore(tmp_path / "store"), extended, base.catalog, np.zeros((0, 4), np.uint8), np.zeros((0, 16)), {}
        )
