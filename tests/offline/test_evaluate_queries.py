"""The three ways to ask, and what is counted of their answers."""

import dataclasses

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.decoders.protocol import Decoded
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.evaluate_queries import category_share, evaluate_queries, query_cases, request_of
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from tests.tiny_bundle import build_tiny_bundle

BEAM = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=30, items=60, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, dataset):
    tiny = build_tiny_bundle(tmp_path_factory.mktemp("store"), catalog=dataset.catalog)
    of_this_data = tiny.manifest.model_copy(update={"data_fingerprint": dataset.fingerprint})
    return Bundle(tiny.path, of_this_data)


def narrowest(dataset, item):
    return dataset.catalog.categories[item][-1]


class Shelves:
    """Answers a query with the shelf it names, as a model would whose codes are the categories; else with item 0 on."""

    name = "torch"

    def __init__(self, dataset, asked):
        self._dataset, self._asked = dataset, asked

    def decode(self, requests):
        return [[Decoded(item, 0.0) for item in self._list(request)] for request in requests]

    def _list(self, request):
        self._asked.append(request)
        open_items = [item for item in range(len(self._dataset.catalog)) if item not in request.excluded]
        if request.query is not None:
            words = set(request.query.split())
            shelves = {narrowest(self._dataset, item) for item in open_items}
            shelf = max(shelves, key=lambda name: len(words & set(name.lower().split())))
            open_items = [item for item in open_items if narrowest(self._dataset, item) == shelf]
        return open_items[: request.n]


def test_a_list_keeps_to_a_category_by_the_share_of_its_items_in_it():
    assert category_share([4, 8, 15, 16], frozenset({8, 16, 23})) == 0.5
    assert category_share([23], frozenset({8, 16, 23})) == 1.0
    assert category_share([], frozenset({8})) == 0.0


def test_the_category_asked_for_is_the_targets_narrowest(dataset):
    cases, skipped = query_cases(dataset, "test")
    assert len(cases) + skipped == len(dataset.user_ids)
    for user, case in enumerate(cases):
        assert case.target == dataset.history(user)[-1]
        assert case.category == narrowest(dataset, case.target)
        assert set(case.category.lower().split()) <= set(case.query.split())


def test_the_three_ways_differ_in_nothing_but_what_is_asked(dataset):
    case = query_cases(dataset, "test")[0][0]
    history, both, query = (request_of(case, way, BEAM) for way in ("history", "history_query", "query"))
    assert (history.query, both.query, query.query) == (None, case.query, case.query)
    assert dataclasses.replace(both, query=None) == history
    assert len(query.history) == 0
    assert dataclasses.replace(query, history=both.history) == both
    assert history.excluded is case.history


def test_a_model_whose_codes_are_the_categories_keeps_to_every_query(dataset, bundle):
    asked = []
    result = evaluate_queries(bundle, Shelves(dataset, asked), dataset, "test", BEAM)
    assert (result.users, result.skipped, result.with_category, len(asked)) == (30, 0, 30, 90)
    assert result.ways["history_query"]["category_share@10"] == 1.0
    assert result.ways["query"] == result.ways["history_query"], "the shelf does not depend on the history"

    cases, _ = query_cases(dataset, "test")
    shares, found, sizes = [], [], []
    for case in cases:
        first = [item for item in range(len(dataset.catalog)) if item not in case.history][:10]
        shares.append(sum(narrowest(dataset, item) == case.category for item in first) / 10)
        found.append(case.target in first)
        sizes.append(sum(case.category in names for names in dataset.catalog.categories) / len(dataset.catalog))
    assert result.ways["history"]["category_share@10"] == pytest.approx(np.mean(shares))
    assert result.ways["history"]["recall@10"] == pytest.approx(np.mean(found))
    assert result.ways["history_query"]["recall@10"] > result.ways["history"]["recall@10"]
    assert result.chance == pytest.approx(np.mean(sizes))


def test_a_real_decoder_is_measured_by_the_lists_it_gives(dataset, bundle):
    decoder = TorchDecoder.from_bundle(bundle, device="cpu")
    result = evaluate_queries(bundle, decoder, dataset, "valid", BEAM, users=8)
    assert result.as_dict()["users"] == 8
    chosen = np.sort(np.random.default_rng(bundle.manifest.seed).permutation(30)[:8])
    cases = [query_cases(dataset, "valid")[0][row] for row in chosen.tolist()]
    for way, metrics in result.ways.items():
        lists = decoder.decode([request_of(case, way, BEAM) for case in cases])
        kept = [
            np.mean([narrowest(dataset, one.item) == case.category for one in answer])
            for case, answer in zip(cases, lists, strict=True)
        ]
        assert metrics["category_share@10"] == pytest.approx(np.mean(kept))


def test_a_version_of_other_data_is_refused(dataset, bundle):
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"data_fingerprint": "f" * 64}))
    with pytest.raises(TesseraError, match="not on this"):
        evaluate_queries(other, Shelves(dataset, []), dataset, "test", BEAM)


def test_without_categories_the_target_is_still_looked_for(dataset, bundle):
    bare = dataclasses.replace(dataset.catalog, categories=((),) * len(dataset.catalog))
    decoder = TorchDecoder.from_bundle(bundle, device="cpu")
    result = evaluate_queries(bundle, decoder, dataclasses.replace(dataset, catalog=bare), "test", BEAM, users=4)
    assert (result.users, result.with_category, result.chance) == (4, 0, None)
    assert all(set(metrics) == {"recall@10", "ndcg@10"} for metrics in result.ways.values())


def test_a_catalogue_that_nothing_can_be_asked_of_cannot_be_measured_and_says_why(dataset, bundle):
    count = len(dataset.catalog)
    mute = dataclasses.replace(
        dataset.catalog, titles=dataset.catalog.item_ids, categories=((),) * count, attributes=({},) * count
    )
    with pytest.raises(TesseraError, match="no query can be written"):
        evaluate_queries(bundle, Shelves(dataset, []), dataclasses.replace(dataset, catalog=mute), "test", BEAM)
