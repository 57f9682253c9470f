"""The trie against a slow, obvious version: sets of tuples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_store.errors import BundleCorrupt
from model_store.item_codes import ItemCodes, code_text
from model_store.prefix_trie import PrefixTrie

code_sets = hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.just(4)), elements=st.integers(0, 4)).map(
    lambda codes: np.random.default_rng(0).permutation(np.unique(codes, axis=0))
)


def prefixes_below(trie: PrefixTrie) -> dict[int, tuple[int, ...]]:
    """Walk the trie node by node, the slow way."""
    spelled = {0: ()}
    for node in range(len(trie.token)):
        for child in trie.children(node):
            spelled[child] = (*spelled[node], int(trie.token[child]))
    return spelled


@given(code_sets)
def test_nodes_are_exactly_the_distinct_prefixes(codes):
    trie = PrefixTrie.build(ItemCodes(codes))
    expected = {tuple(code[:depth]) for code in codes.tolist() for depth in range(5)}
    spelled = prefixes_below(trie)
    assert sorted(spelled.values()) == sorted(expected)
    assert len(spelled) == len(trie.token)


@given(code_sets)
def test_every_leaf_is_its_item_and_every_range_its_items(codes):
    trie = PrefixTrie.build(ItemCodes(codes))
    for node, prefix in prefixes_below(trie).items():
        below = {i for i, code in enumerate(codes.tolist()) if tuple(code[: len(prefix)]) == prefix}
        assert set(trie.leaf_item[trie.leaf_begin[node] : trie.leaf_end[node]].tolist()) == below


@given(code_sets)
def test_paths_lead_from_the_root_to_the_item(codes):
    trie = PrefixTrie.build(ItemCodes(codes))
    spelled = prefixes_below(trie)
    for item, path in enumerate(trie.paths(np.arange(len(codes)))):
        assert [spelled[int(node)] for node in path] == [tuple(codes[item, :depth].tolist()) for depth in range(1, 5)]


def test_two_items_with_one_code_are_refused():
    with pytest.raises(BundleCorrupt, match="must be unique"):
        ItemCodes(np.array([[1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 3, 4]], dtype=np.uint8))


@given(code_sets)
def test_a_code_finds_its_item_and_an_unused_one_finds_none(codes):
    item_codes = ItemCodes(codes)
    assert item_codes.items_of(codes).tolist() == list(range(len(codes)))
    assert item_codes.items_of(np.full((1, 4), 255, dtype=np.uint8)).tolist() == [-1]


def test_a_code_is_written_as_the_tokenizer_knows_it():
    assert code_text(np.array([17, 203, 5, 91], dtype=np.uint8)) == "<u_17><v_203><x_5><y_91>"


def test_a_large_catalogue_takes_under_120_bytes_an_item():
    rng = np.random.default_rng(0)
    packed = rng.choice(2**32, 200_000, replace=False).astype(">u4")
    trie = PrefixTrie.build(ItemCodes(packed.view(np.uint8).reshape(-1, 4)))
    arrays = (trie.first_child, trie.token, trie.leaf_begin, trie.leaf_end, trie.leaf_item, trie.item_leaf)
    assert sum(array.nbytes for array in arrays) / 200_000 < 120
