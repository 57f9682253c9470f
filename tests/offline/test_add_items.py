"""Items added to a trained version, with its own text encoder and codebooks."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from model_store.bundle import Bundle, ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import BundleCorrupt, TesseraError
from model_store.prefix_trie import EligibleItems
from offline.add_items import add_items, add_items_of_file
from offline.column_names import ColumnNames
from offline.data_problems import DataError
from offline.evaluate_new_items import hide_items
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.recipe import load_recipe
from offline.train import Run, train

QUICK = ["collaborative.epochs=2", "training.epochs=1", "training.validate_every=1", "text.max_tokens=16"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=60, items=60, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def hidden(dataset):
    return hide_items(dataset, 0.1, seed=0)[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset):
    """A version of all items but the hidden ones; not to be extended."""
    home = tmp_path_factory.mktemp("home")
    reduced, _ = hide_items(dataset, 0.1, seed=0)
    return train(Run.create(reduced, load_recipe("demo", QUICK), home), ModelStore(home / "store"))


@pytest.fixture
def store(tmp_path, trained):
    """A store of its own for each test, with the trained version in it."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / trained.version).symlink_to(trained.path)
    return ModelStore(tmp_path / "store")


@pytest.fixture
def base(store, trained):
    return store.open(trained.version)


def changed(catalog, **fields):
    return dataclasses.replace(catalog, **fields)


def test_new_items_get_codes_of_their_own_and_old_ones_keep_theirs(store, base, hidden):
    extended = store.open(add_items(store, base, hidden).version)
    count = len(base.catalog)
    assert extended.version == f"{base.version}+1"
    assert extended.catalog.item_ids == base.catalog.item_ids + hidden.item_ids
    assert (extended.item_codes.codes_NL[:count] == base.item_codes.codes_NL).all()
    assert len(np.unique(extended.item_codes.packed)) == count + len(hidden)
    assert extended.popularity[count:].tolist() == [0] * len(hidden)
    assert extended.manifest.metrics["extension"] == {"added": len(hidden), "updated": 0}


def test_a_new_item_stands_near_the_items_its_text_is_like(store, base, hidden):
    twin = base.catalog.select(np.array([7]))
    extended = add_items(store, base, changed(twin, item_ids=("twin",)))
    text_half = extended.item_embeddings[-1]
    others = np.delete(extended.item_embeddings @ text_half, len(base.catalog))
    assert 7 in np.argsort(-others)[: len(base.catalog) // 5].tolist()
    code, similar = extended.item_codes.codes_NL[-1], extended.item_codes.codes_NL[:-1]
    assert (similar[:, 0] == code[0]).any(), "it shares its first token with somebody the model has met"


def test_new_items_can_be_decoded_and_read_in_histories(store, base, hidden):
    extended = add_items(store, base, hidden)
    decoder = TorchDecoder.from_bundle(extended, device="cpu")
    is_new = np.arange(len(extended.catalog)) >= len(base.catalog)
    request = DecodeRequest(
        history=np.array([3, len(base.catalog)], dtype=np.int32),
        n=20,
        beam_width=20,
        eligible=EligibleItems.from_mask(extended.trie, is_new),
    )
    decoded = decoder.decode([request])[0]
    assert {one.item for one in decoded} == set(np.flatnonzero(is_new).tolist())
    assert all(np.isfinite(one.score) for one in decoded)


def test_items_that_are_there_are_updated_and_keep_their_code(store, base):
    news = changed(
        base.catalog.select(np.array([4, 9])),
        titles=("Renamed", base.catalog.titles[9]),
        texts=("", ""),
        categories=((), ("Sale",)),
        prices=np.array([np.nan, 1.5], dtype=np.float32),
        attributes=({"colour": "red"}, {}),
        available=np.array([False, True]),
    )
    extended = store.open(add_items(store, base, news).version)
    before, after = base.catalog, extended.catalog
    assert (after.titles[4], after.titles[9]) == ("Renamed", before.titles[9])
    assert after.texts == before.texts
    assert (after.categories[4], after.categories[9]) == (before.categories[4], ("Sale",))
    assert (after.prices[4], after.prices[9]) == (before.prices[4], 1.5)
    assert after.attributes[4] == {**before.attributes[4], "colour": "red"}
    assert not after.available[4]
    assert (extended.item_codes.codes_NL == base.item_codes.codes_NL).all()
    assert extended.manifest.metrics["extension"] == {"added": 0, "updated": 2}


def test_nothing_is_published_when_nothing_is_new(store, base):
    assert add_items(store, base, base.catalog.select(np.arange(5))) is base
    assert store.versions() == [base.version]


def test_a_code_belongs_to_one_item_in_the_whole_line(store, base, hidden):
    first = add_items(store, base, hidden.select(np.array([0, 1])))
    # Rolled back to the base, and another delivery: one item again, and a look-alike of the other.
    again = changed(hidden.select(np.array([0, 1])), item_ids=(hidden.item_ids[0], "look-alike"))
    second = add_items(store, base, again)
    assert second.version == f"{base.version}+2"
    ours, theirs = second.item_codes.codes_NL[-2:], first.item_codes.codes_NL[-2:]
    assert ours[0].tolist() == theirs[0].tolist()
    assert ours[1].tolist() != theirs[1].tolist()
    assert (second.item_embeddings[-2] == first.item_embeddings[-2]).all()
    assert store.line_of(base.version)[-1].manifest.extends == base.version


def test_a_file_is_added_without_its_bad_rows(store, base, tmp_path):
    known = base.catalog.item_ids[0]
    path = tmp_path / "new.csv"
    path.write_text(f"item_id,title,price\nnew-1,Blue lamp,9.5\nnew-2,Red lamp,dear\n{known},,3\n", encoding="utf-8")
    result = add_items_of_file(store, base, path, ColumnNames())
    assert (result.added, result.updated, [row.line for row in result.rejected]) == (1, 1, [3])
    assert result.bundle.catalog.titles[0] == base.catalog.titles[0]
    assert (result.bundle.catalog.item_ids[-1], result.bundle.catalog.prices[0]) == ("new-1", 3)
    said = result.as_dict()
    assert (said["version"], said["extends"], said["items"]) == (
        result.bundle.version,
        base.version,
        len(base.catalog) + 1,
    )
    assert result.bundle.manifest.metrics["extension"]["file"] == "new.csv"
    again = add_items_of_file(store, result.bundle, path, ColumnNames())
    assert (again.bundle, again.added, again.updated) == (result.bundle, 0, 0)


def test_a_file_without_a_sound_row_publishes_nothing(store, base, tmp_path):
    (tmp_path / "new.csv").write_text("item_id,price\nnew-1,dear\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        add_items_of_file(store, base, tmp_path / "new.csv", ColumnNames())
    assert store.versions() == [base.version]


def test_every_column_of_the_catalogue_survives(store, base, hidden):
    extended = add_items(store, base, hidden)
    table = pq.read_table(extended.path / "items.parquet")
    assert table.slice(0, len(base.catalog)).equals(pq.read_table(base.path / "items.parquet"))
    assert table.slice(len(base.catalog)).equals(hidden.to_table())


def test_a_text_encoder_that_is_not_there_is_an_error_that_names_it(store, trained, hidden, tmp_path):
    elsewhere = Bundle(tmp_path / "copy", trained.manifest)
    shutil.copytree(trained.path, elsewhere.path)
    path = elsewhere.path / "quantizer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"text": {"encoder": "package:no_such_encoder"}}))
    with pytest.raises(TesseraError, match="no_such_encoder"):
        add_items(store, elsewhere, hidden)
    path.write_text("{}")
    with pytest.raises(BundleCorrupt, match=r"config\.json"):
        add_items(store, elsewhere, hidden)
    assert store.versions() == [trained.version]
