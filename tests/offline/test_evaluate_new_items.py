"""Hiding items, and ranking them once they have been added."""

import dataclasses

import numpy as np
import pytest

from model_store.bundle import ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.evaluate_new_items import evaluate_new_items, hide_items, train_and_evaluate_new_items
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.leave_one_out import leave_one_out
from offline.ranking_metrics import ranking_metrics
from offline.recipe import load_recipe

QUICK = ["collaborative.epochs=2", "training.epochs=1", "training.validate_every=1", "text.max_tokens=16"]
SHARE = 0.15


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=90, items=60, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def measure(dataset, home, **changes):
    settings = {"share": SHARE, "seed": 0, "split": "test", "beam_width": 20} | changes
    return train_and_evaluate_new_items(dataset, load_recipe("demo", QUICK), home, **settings)


@pytest.fixture(scope="module")
def result(dataset, home):
    return measure(dataset, home)


@pytest.fixture(scope="module")
def store(home, result):
    return ModelStore(home / "new-items" / "store")


def events(dataset):
    """(user, item, time) by id, in order."""
    owners = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.offsets))
    return [
        (dataset.user_ids[user], dataset.catalog.item_ids[item], time)
        for user, item, time in zip(owners, dataset.items, dataset.timestamps, strict=True)
    ]


def test_hiding_takes_an_items_row_and_all_its_events_and_nothing_else(dataset):
    reduced, hidden = hide_items(dataset, SHARE, seed=0)
    assert len(hidden) == 9
    assert set(reduced.catalog.item_ids) | set(hidden.item_ids) == set(dataset.catalog.item_ids)
    assert len(reduced.catalog) == 60 - 9
    assert events(reduced) == [event for event in events(dataset) if event[1] not in hidden]
    assert reduced.fingerprint != dataset.fingerprint
    at = dataset.catalog.index_of(hidden.item_ids[0])
    assert (hidden.titles[0], hidden.prices[0]) == (dataset.catalog.titles[at], dataset.catalog.prices[at])


def test_users_who_met_only_hidden_items_are_gone(dataset):
    first = dataset.items[0]
    only = dataclasses.replace(
        dataset, user_ids=("ann", "bob"), offsets=np.array([0, 1, 4]), items=np.array([first, *dataset.items[1:4]])
    )
    only = dataclasses.replace(only, timestamps=np.arange(4.0))
    for seed in range(30):
        reduced, hidden = hide_items(only, SHARE, seed)
        if only.catalog.item_ids[first] in hidden:
            break
    assert "ann" not in reduced.user_ids
    assert len(reduced.offsets) == len(reduced.user_ids) + 1


def test_the_seed_decides_what_is_hidden(dataset):
    hidden = [hide_items(dataset, SHARE, seed)[1].item_ids for seed in (0, 0, 1)]
    assert hidden[0] == hidden[1] != hidden[2]
    assert hide_items(dataset, SHARE, 0)[0].fingerprint != hide_items(dataset, SHARE, 1)[0].fingerprint


@pytest.mark.parametrize("share", [0.0, 0.001, 1.0])
def test_hiding_nothing_or_everything_is_an_error(dataset, share):
    with pytest.raises(TesseraError, match="hide some"):
        hide_items(dataset, share, seed=0)


def test_cases_are_the_users_whose_next_item_is_new_and_who_know_another(dataset, result):
    _, hidden = hide_items(dataset, SHARE, seed=0)
    cases = leave_one_out(dataset).evaluation_cases("test")
    names = [[dataset.catalog.item_ids[item] for item in cases.histories[row]] for row in range(len(cases.targets))]
    targets = [dataset.catalog.item_ids[item] for item in cases.targets]
    of_new = [history for history, target in zip(names, targets, strict=True) if target in hidden]
    assert result.users == sum(any(item not in hidden for item in history) for history in of_new)
    assert result.users + result.without_history == len(of_new) > 0
    assert result.targets == len({target for target in targets if target in hidden})
    assert (result.items, result.new_items) == (60, 9)


def test_the_versions_lists_are_what_is_measured(dataset, result, store):
    extended = store.open(result.version)
    known = 60 - 9
    decoder = TorchDecoder.from_bundle(extended, device="cpu")
    index_of = extended.catalog.index_of
    cases = leave_one_out(dataset).evaluation_cases("test")
    ranks = []
    for row, target in enumerate(cases.targets):
        wanted = index_of(dataset.catalog.item_ids[target])
        met = [index_of(dataset.catalog.item_ids[item]) for item in cases.histories[row]]
        history = np.array([item for item in met if item < known], dtype=np.int32)
        if wanted >= known and len(history):
            everything = decoder.decode([DecodeRequest(history=history, n=60, beam_width=60, excluded=history)])[0]
            new = [one.item for one in everything if one.item >= known]
            ranks.append(new.index(wanted) + 1)
    expected = ranking_metrics(np.array(ranks), (10, 20))
    assert result.protocols["new"]["tessera"] == pytest.approx(expected), "the filter ranks as all items do"
    assert expected["recall@10"] == 1.0, "nine new items"


def test_nobody_has_met_a_new_item_so_popularity_finds_none(result):
    assert set(result.protocols["all"]) == {"tessera", "popular", "text_neighbours", "random"}
    assert result.protocols["all"]["popular"]["recall@20"] == 0.0
    assert result.protocols["new"]["text_neighbours"]["ndcg@10"] > result.protocols["new"]["popular"]["ndcg@10"]


def test_what_was_trained_is_measured_again_without_training(dataset, home, result):
    again = measure(dataset, home)
    assert again.base == result.base
    assert (again.users, again.protocols) == (result.users, result.protocols)
    assert measure(dataset, home, split="valid").base == result.base


def test_a_version_of_other_items_is_refused(dataset, result, store):
    _, other = hide_items(dataset, SHARE, seed=1)
    with pytest.raises(TesseraError, match="do not make up the catalogue"):
        evaluate_new_items(store, store.open(result.base), dataset, other, split="test", beam_width=20, seed=0)
