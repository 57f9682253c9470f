"""Versions whose codes are made from two sources: trained, extended and decoded like any other."""

import dataclasses
import json

import numpy as np
import pytest

from model_store.bundle import ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.prefix_trie import EligibleItems
from offline.add_items import add_items
from tests.trained_version import train_version

RECIPES = {
    "dual": ("codes.kind=dual", "codes.input=concat"),
    "mixed": ("codes.kind=mixed", "codes.input=all"),
}


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, tmp_path_factory):
    """The kind of codes, the store and the version."""
    home = tmp_path_factory.mktemp(request.param)
    return request.param, ModelStore(home / "store"), train_version(home, *RECIPES[request.param])


@pytest.fixture(scope="module")
def extended(trained):
    """The version with a twin of every item, which has the same text."""
    _, store, base = trained
    twins = dataclasses.replace(base.catalog, item_ids=tuple(f"{name}-twin" for name in base.catalog.item_ids))
    return store.open(add_items(store, base, twins).version)


def test_the_bundle_says_how_its_codes_were_made(trained):
    kind, _, base = trained
    report = json.loads((base.path / "report" / "codes_report.json").read_text())
    assert report["kind"] == base.manifest.metrics["codes"]["kind"] == kind
    assert len(np.unique(base.item_codes.packed)) == len(base.catalog)
    if kind == "dual":
        # 60 items: a node branches ceil(sqrt(60)) ways.
        assert [level["items_per_entry"] for level in report["levels"]][::2] == [[7, 8], [7, 8]]
        assert [level["single_child_nodes"] for level in report["levels"]] == [0, 0, 1, 1]


def test_new_items_get_codes_of_their_own_and_old_ones_keep_theirs(trained, extended):
    _, _, base = trained
    count = len(base.catalog)
    assert len(extended.catalog) == 2 * count
    assert (extended.item_codes.codes_NL[:count] == base.item_codes.codes_NL).all()
    assert len(np.unique(extended.item_codes.packed)) == 2 * count


def test_a_new_item_shares_its_first_text_token_with_the_item_whose_text_it_has(trained, extended):
    """But for items that a full cluster sent on to another: a new one goes where its text is nearest, full or not."""
    kind, _, base = trained
    level, count = {"dual": 0, "mixed": 2}[kind], len(base.catalog)
    codes_N = extended.item_codes.codes_NL[:, level]
    at_nearest = base.manifest.metrics["codes"]["share_at_nearest_entry"][level]
    assert at_nearest > 0.7
    assert (codes_N[count:] == codes_N[:count]).mean() == pytest.approx(at_nearest)


def test_new_items_can_be_decoded_and_read_in_histories(trained, extended):
    _, _, base = trained
    count = len(base.catalog)
    decoder = TorchDecoder.from_bundle(extended, device="cpu")
    is_new = np.arange(len(extended.catalog)) >= count
    request = DecodeRequest(
        history=np.array([3, count + 4], dtype=np.int32),
        n=20,
        beam_width=60,
        eligible=EligibleItems.from_mask(extended.trie, is_new),
    )
    decoded = decoder.decode([request])[0]
    assert len({one.item for one in decoded} & set(np.flatnonzero(is_new).tolist())) == 20
    assert all(np.isfinite(one.score) for one in decoded)
