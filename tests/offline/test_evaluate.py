"""What an evaluation says of the codes a version returns, with a trie and without."""

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from offline.code_validity import code_validity, spelled
from offline.evaluate import ALONE, PER_POSITION, evaluate
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.leave_one_out import leave_one_out
from offline.per_position_decode import BEAMS, PerPositionDecoder
from offline.ranking_metrics import ranking_metrics, ranks_in_lists
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=30, items=60, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, dataset):
    return build_tiny_bundle(
        tmp_path_factory.mktemp("store"), catalog=dataset.catalog, data_fingerprint=dataset.fingerprint
    )


@pytest.fixture(scope="module")
def decoder(bundle):
    return TorchDecoder.from_bundle(bundle, device="cpu")


@pytest.fixture(scope="module")
def result(bundle, decoder, dataset):
    return evaluate(bundle, decoder, dataset, "test", 20, constraint="position")


@pytest.fixture(scope="module")
def cases(dataset):
    return leave_one_out(dataset).evaluation_cases("test")


@pytest.fixture(scope="module")
def sequences(bundle, decoder, cases):
    """Of each user, the codes returned without a trie and the items they name, -1 for none."""
    search = PerPositionDecoder.of_bundle(bundle, decoder.language_model)
    found = search.decode([cases.histories[row] for row in range(len(cases.targets))])
    return [bundle.item_codes.items_of(one.codes_KL).tolist() for one in found]


def test_the_trie_never_returns_an_invalid_code_and_the_constraint_by_position_does(result):
    for protocol in ("all", "unseen"):
        codes = result.codes[protocol]
        assert set(codes) == {"tessera", PER_POSITION}
        assert codes["tessera"] == {"invalid_codes": 0.0, "items_per_user": 20.0}
        assert 0 < codes[PER_POSITION]["invalid_codes"] < 1
        assert codes[PER_POSITION]["items_per_user"] < 20


def test_the_share_is_of_all_sequences_and_the_lists_hold_what_is_left_of_them(result, sequences, cases):
    invalid = sum(items.count(-1) for items in sequences) / (BEAMS * len(sequences))
    kept = {"all": [], "unseen": []}
    for row, items in enumerate(sequences):
        kept["all"].append([item for item in items if item >= 0])
        kept["unseen"].append([item for item in items if item >= 0 and item not in cases.histories[row]])
    assert kept["all"] != kept["unseen"], "else nothing is tested of leaving seen items out"
    for protocol, lists in kept.items():
        codes = result.codes[protocol][PER_POSITION]
        assert codes["invalid_codes"] == pytest.approx(invalid)
        assert codes["items_per_user"] == pytest.approx(np.mean([len(items) for items in lists]))
        expected = ranking_metrics(ranks_in_lists(lists, cases.targets))
        assert result.protocols[protocol][PER_POSITION] == pytest.approx(expected)


def test_without_it_the_same_is_said_of_the_other_systems_and_nothing_else(bundle, decoder, dataset, result):
    plain = evaluate(bundle, decoder, dataset, "test", 20)
    for protocol, systems in plain.protocols.items():
        assert PER_POSITION not in systems
        assert systems == {name: row for name, row in result.protocols[protocol].items() if name != PER_POSITION}
        assert plain.codes[protocol] == {"tessera": {"invalid_codes": 0.0, "items_per_user": 20.0}}


def test_the_language_model_alone_is_what_searches_where_an_encoder_has_a_say(bundle, dataset, result):
    mixed = Bundle(bundle.path, bundle.manifest.model_copy(update={"collaborative_weight": 0.5}))
    found = evaluate(mixed, TorchDecoder.from_bundle(mixed, device="cpu"), dataset, "test", 20, constraint="position")
    assert set(found.codes["all"]) == {"tessera", ALONE, PER_POSITION}
    assert found.codes["all"][ALONE]["invalid_codes"] == 0.0
    for protocol in ("all", "unseen"):
        assert found.protocols[protocol][PER_POSITION] == result.protocols[protocol][PER_POSITION]
        assert found.protocols[protocol][ALONE] == pytest.approx(result.protocols[protocol]["tessera"])


def test_a_code_that_no_item_has_is_counted_whatever_returned_it(bundle):
    codes = bundle.item_codes
    strange = codes.codes_NL[:3].copy()
    strange[2, 0] = next(entry for entry in range(256) if entry not in codes.codes_NL[:, 0])
    found = code_validity([strange, codes.codes_NL[5:6]], [[0, 1], [5]], codes)
    assert found == {"invalid_codes": 0.25, "items_per_user": 1.5}


def test_the_way_through_the_trie_spells_what_the_decoder_returned(bundle, decoder):
    (answer,) = decoder.decode([DecodeRequest(history=np.array([3], dtype=np.int32), n=20, beam_width=20)])
    items = [one.item for one in answer]
    assert spelled(bundle.trie, items).tolist() == bundle.item_codes.codes_NL[items].tolist()
    assert spelled(bundle.trie, []).shape == (0, 4)
