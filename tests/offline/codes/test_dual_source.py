import dataclasses

import numpy as np
import pytest

from model_store.errors import TesseraError
from offline.codes.balanced_tree import balanced_tree
from offline.codes.config import CodesConfig
from offline.codes.dual_source import dual_source_codes
from offline.codes.make_codes import make_codes
from tests.offline.codes.made_items import BEHAVIOUR_SIZE, made_vectors, quick_config

TEXT = 6
ORDERS = ("text-first", "behaviour-first", "interleaved", "text", "behaviour")


def dual(count=300, seed=0, **settings):
    vectors, _ = made_vectors(count)
    return make_codes(vectors, None, quick_config(kind="dual", input="concat", **settings), seed)


def sources(vectors):
    return {"text": vectors[:, :TEXT], "behaviour": vectors[:, TEXT:]}


@pytest.mark.parametrize("count", [20, 256, 257, 900])
def test_every_item_has_a_place_of_its_own_in_each_source(count):
    codes = dual(count).codes_NL
    for source in (codes[:, :2], codes[:, 2:]):
        assert len(np.unique(source, axis=0)) == count


@pytest.mark.parametrize(("count", "branches"), [(20, 5), (256, 16), (257, 256), (900, 256)])
def test_the_number_of_items_says_how_many_ways_a_node_branches(count, branches):
    made = dual(count)
    assert made.report["entries"] == branches
    assert made.codes_NL.max() < branches
    for level in (0, 2):
        sizes = np.bincount(made.codes_NL[:, level], minlength=branches)
        assert sizes.max() - sizes.min() <= 1
    assert not made.codebooks_LCD[:, branches:].any()


def test_fewer_entries_leave_items_of_one_source_together_and_the_other_tells_them_apart():
    made = dual(500, entries=8)
    assert made.codes_NL.max() < 8
    assert made.report["items_per_leaf"] == {"text": [7, 8], "behaviour": [7, 8]}
    assert len(np.unique(made.codes_NL[:, :2], axis=0)) == 64
    assert made.report["single_child_nodes"][2] < 0.6


def test_the_first_source_decides_alone_where_every_item_has_a_place_in_it():
    assert dual(300).report["single_child_nodes"][2:] == [1, 1]


def test_orders_are_the_same_tokens_in_other_places():
    text_first, behaviour_first, interleaved = (dual(order=order).codes_NL for order in ORDERS[:3])
    np.testing.assert_array_equal(behaviour_first, text_first[:, [2, 3, 0, 1]])
    np.testing.assert_array_equal(interleaved, text_first[:, [0, 2, 1, 3]])


@pytest.mark.parametrize(("order", "columns"), [("text", [0, 1]), ("behaviour", [2, 3])])
def test_codes_of_one_source_say_nothing_of_the_other(order, columns):
    made = dual(order=order)
    np.testing.assert_array_equal(made.codes_NL[:, :2], dual().codes_NL[:, columns])
    assert not made.codes_NL[:, 2:].any()
    assert not sources(made.codebooks_LCD[0])["behaviour" if order == "text" else "text"].any()
    assert made.report["perplexity"][2:] == [1, 1]


def test_items_that_share_a_leaf_of_the_only_source_differ_in_what_says_nothing():
    codes = dual(500, order="text", entries=8).codes_NL
    assert len(np.unique(codes, axis=0)) == 500
    assert codes[:, 2].max() == 0
    assert codes[:, 3].max() == 7


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_seed_gives_the_same_codes_and_another_seed_others(order):
    first, again, other = (dual(seed=seed, order=order).codes_NL for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_entries_are_the_means_of_their_items_in_their_own_source():
    made = dual(300, entries=12)
    first = made.codes_NL[:, 0] == 3
    np.testing.assert_allclose(made.codebooks_LCD[0, 3, :TEXT], made.vectors_ND[first, :TEXT].mean(axis=0), atol=1e-5)
    assert not made.codebooks_LCD[:2, :, TEXT:].any()
    assert not made.codebooks_LCD[2:, :, :TEXT].any()
    assert made.codebooks_LCD.shape == (4, 256, TEXT + BEHAVIOUR_SIZE)


def test_first_tokens_know_the_kinds_of_items():
    vectors, kind_of = made_vectors(300)
    codes = make_codes(vectors, None, quick_config(kind="dual", input="concat", entries=8, iterations=30), 0).codes_NL
    for level in (0, 2):
        together = (codes[:, None, level] == codes[None, :, level]) & ~np.eye(300, dtype=bool)
        assert (kind_of[:, None] == kind_of[None, :])[together].mean() > 0.6


def test_matched_second_tokens_mean_something_similar_under_every_first_one():
    vectors = made_vectors(2000)[0].text_NX
    matched, at_random = (balanced_tree(vectors, 64, 10, 0, labels) for labels in ("matched", "random"))
    np.testing.assert_array_equal(matched.labels_N2[:, 0], at_random.labels_N2[:, 0])

    def unexplained(tree):
        residual = vectors - tree.centres_2KD[0][tree.labels_N2[:, 0]]
        return ((residual - tree.centres_2KD[1][tree.labels_N2[:, 1]]) ** 2).sum() / (residual**2).sum()

    assert unexplained(at_random) > 0.9
    assert unexplained(matched) < 0.8


@pytest.mark.parametrize("labels", ["matched", "random"])
@pytest.mark.parametrize("distinct", [1, 5, 100])
def test_items_with_the_same_vectors_get_codes_of_their_own(labels, distinct):
    vectors = np.random.default_rng(0).normal(size=(distinct, 8)).astype(np.float32)
    repeated = vectors[np.random.default_rng(1).integers(0, distinct, 400)]
    for config in (quick_config(labels=labels), quick_config(labels=labels, entries=16)):
        made = dual_source_codes(repeated, 4, config, 0)
        assert len(np.unique(made.codes_NL, axis=0)) == 400
        assert np.isfinite(made.codebooks_LCD).all()


def test_a_catalogue_beyond_what_a_tree_has_places_for_gets_codes_of_its_own():
    """70,000 items, where a tree has 65,536 places."""
    vectors = np.random.default_rng(0).normal(size=(70_000, 6)).astype(np.float32)
    config = CodesConfig(kind="dual", input="concat", iterations=2, labels="random")
    made = dual_source_codes(vectors, 3, config, 0)
    assert len(np.unique(made.codes_NL, axis=0)) == 70_000
    for level in (0, 2):
        assert set(np.bincount(made.codes_NL[:, level]).tolist()) == {273, 274}
    assert made.report["items_per_leaf"] == {"text": [1, 2], "behaviour": [1, 2]}


def test_vectors_that_are_not_numbers_are_refused():
    vectors, _ = made_vectors(100)
    broken = vectors.text_NX.copy()
    broken[4] = np.nan
    with pytest.raises(TesseraError, match="not finite"):
        make_codes(
            dataclasses.replace(vectors, text_NX=broken, known_N=np.arange(100) != 4),
            None,
            quick_config(kind="dual", input="concat"),
            0,
        )


def test_behaviour_of_items_without_training_events_is_told_from_their_text():
    vectors, _ = made_vectors(200, unknown=30)
    noise = np.where(vectors.known_N[:, None], vectors.behaviour_NY, 1e6).astype(np.float32)
    config = quick_config(kind="dual", input="concat")
    codes, with_noise = (
        make_codes(items, None, config, 0).codes_NL
        for items in (vectors, dataclasses.replace(vectors, behaviour_NY=noise))
    )
    assert (codes == with_noise).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dual"}, "codes.kind=dual needs codes.input=concat, not 'joint'"),
        ({"kind": "mixed", "input": "concat"}, "codes.kind=mixed needs codes.input=all, not 'concat'"),
        ({"order": "backwards"}, "codes.order must be one of text-first, "),
        ({"labels": "none"}, "codes.labels must be one of matched, random"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_what_to_set(settings, message):
    with pytest.raises(TesseraError, match=message):
        CodesConfig(**settings)
