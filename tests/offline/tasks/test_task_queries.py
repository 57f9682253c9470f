"""Queries and preferences: words that fit the items, and never give a title away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.tasks.preferences import PreferenceWriter
from offline.tasks.queries import QueryWriter
from offline.tasks.salient_words import salience, words_of
from tests.offline.tasks.conftest import make_catalog

words = st.sampled_from(["red", "Blue,", "kettle", "chair", "&", "2", "größe", "水壶", "the", "ink"])
texts = st.lists(words, max_size=8).map(" ".join)
items = st.tuples(texts, st.lists(texts, max_size=3).map(tuple), texts)
catalogues = st.lists(items, min_size=1, max_size=6).map(
    lambda rows: make_catalog([r[0] for r in rows], None, [r[1] for r in rows], [r[2] for r in rows])
)


def all_words(catalog, item):
    return words_of(" ".join((catalog.titles[item], *catalog.categories[item], catalog.attributes[item]["brand"])))


@settings(max_examples=40, deadline=None)
@given(catalogues, st.integers(0, 100))
def test_a_query_is_words_of_its_item_and_never_the_whole_title(catalog, seed):
    writer, rng = QueryWriter(catalog), np.random.default_rng(seed)
    for item in np.flatnonzero(writer.writable).tolist():
        title = set(words_of(catalog.titles[item]))
        for query in (*(writer.draw(item, rng) for _ in range(5)), writer.evaluation_query(item)):
            assert query
            assert set(query.split()) <= set(all_words(catalog, item))
            assert not title or not title <= set(query.split())


@settings(max_examples=40, deadline=None)
@given(catalogues)
def test_an_item_that_no_query_can_be_written_for_has_nothing_but_its_title(catalog):
    writer = QueryWriter(catalog)
    for item in np.flatnonzero(~writer.writable).tolist():
        title = set(words_of(catalog.titles[item]))
        names = [*catalog.categories[item], catalog.attributes[item]["brand"]]
        assert len(title) <= 1
        assert all(title <= set(words_of(name)) for name in names if words_of(name)) or not title
        assert writer.evaluation_query(item) == ""


@settings(max_examples=40, deadline=None)
@given(catalogues, st.integers(0, 100))
def test_the_same_generator_writes_the_same_queries(catalog, seed):
    writer = QueryWriter(catalog)
    for item in np.flatnonzero(writer.writable).tolist():
        first, second = (writer.draw(item, np.random.default_rng(seed)) for _ in range(2))
        assert first == second


KETTLES = make_catalog(
    [
        "the blue kettle with long spout",
        "the red kettle with lid",
        "the green chair",
        "the kettle brush",
        "steel grater",
    ],
    None,
    [("Home", "Kettles"), ("Home", "Kettles"), (), ("Home",), ("Home", "Kitchen")],
    ["Acme", "Acme", "Zenith", "", ""],
)


def test_queries_differ_and_take_two_to_six_words_of_a_long_title():
    writer, rng = QueryWriter(KETTLES), np.random.default_rng(0)
    queries = [writer.draw(0, rng) for _ in range(300)]
    title = set(words_of(KETTLES.titles[0]))
    counts = {len(title & set(query.split())) for query in queries}
    assert counts == {2, 3, 4, 5}
    assert len(set(queries)) > 50
    assert {hint for query in queries for hint in ("home", "kettles", "acme") if hint in query.split()} == {
        "home",
        "kettles",
        "acme",
    }


def test_telling_words_are_asked_for_more_often_than_common_ones():
    writer, rng = QueryWriter(KETTLES), np.random.default_rng(0)
    queries = [writer.draw(0, rng).split() for _ in range(500)]
    assert sum("spout" in query for query in queries) > 1.3 * sum("the" in query for query in queries)


def test_the_evaluation_query_is_the_narrowest_category_and_the_most_telling_word():
    writer = QueryWriter(KETTLES)
    assert writer.evaluation_query(0) == "kettles blue"
    assert writer.evaluation_query(2) == "zenith green"
    assert writer.evaluation_query(3) == "home brush"


@pytest.mark.parametrize("item", range(5))
def test_training_never_sees_the_evaluation_query_of_an_item_that_allows_others(item):
    writer, rng = QueryWriter(KETTLES), np.random.default_rng(0)
    held_out = set(writer.evaluation_query(item).split())
    assert all(set(writer.draw(item, rng).split()) != held_out for _ in range(500))


def test_words_keep_their_marks_and_lose_the_punctuation_around_them():
    assert words_of("(Blue) Blue kettle - 2,5 l, हिन्दी!") == ["blue", "kettle", "2,5", "l", "हिन्दी"]


def test_rare_words_are_salient():
    worth = salience([["a", "b"], ["a", "c"], ["a"]])
    assert worth["b"] == worth["c"] > worth["a"] > 0
    assert set(salience([["a", "b"], ["a"]], least_holders=2)) == {"a"}


def test_a_preference_names_what_many_of_the_items_have_first():
    catalog = make_catalog(
        ["ink 12", "ink ab", "paper", "ink unique", "chair"] + ["other"] * 5,
        None,
        [("Office", "Printers")] * 4 + [("Garden",)] + [("Garden",)] * 5,
        ["Acme", "Acme", "Acme", "", ""] + [""] * 5,
    )
    writer = PreferenceWriter(catalog)
    assert writer.write(np.array([0, 1, 3])).split(", ")[0] == "ink"
    assert set(writer.write(np.array([0, 1, 3])).split(", ")) == {"ink", "acme", "office", "printers"}
    assert writer.write(np.array([4, 4, 4, 0])).split(", ")[0] == "garden"


def test_numbers_snippets_and_names_of_one_item_are_no_taste():
    catalog = make_catalog(["ab 120 unique", "ab 120 other"], None, [(), ()])
    writer = PreferenceWriter(catalog)
    assert not writer.has_terms.any()
    assert writer.write(np.array([0, 1])) == ""


@settings(max_examples=40, deadline=None)
@given(catalogues)
def test_only_items_with_terms_make_a_preference(catalog):
    writer = PreferenceWriter(catalog)
    for item in range(len(catalog)):
        assert bool(writer.write(np.array([item]))) == writer.has_terms[item]
