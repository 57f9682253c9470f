"""What has to be computed for given items, against a walk over their paths one by one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.decoders.item_tree import item_tree
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie

codes = st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=60, unique=True)


def needed_by_hand(trie, items, skip_certain):
    """Per depth, the prefixes whose children somebody must be compared with, or that lie above such a one."""
    needed = [set() for _ in range(trie.levels)]
    for path in trie.paths(items).tolist():
        above = [0, *path[:-1]]
        decides = [len(trie.children(node)) > 1 or not skip_certain for node in above]
        for depth, node in enumerate(above):
            if any(decides[depth:]):
                needed[depth].add(node)
    return needed


@given(codes=codes, data=st.data(), skip_certain=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_tree_holds_what_decides_and_no_more(codes, data, skip_certain):
    trie = PrefixTrie.build(ItemCodes(np.array(codes, dtype=np.uint8)))
    items = np.array(data.draw(st.lists(st.integers(0, len(codes) - 1), max_size=20)), dtype=np.int32)
    tree = item_tree(trie, items, skip_certain=skip_certain)
    paths = trie.paths(items)
    assert [set(level.nodes.tolist()) for level in tree] == needed_by_hand(trie, items, skip_certain)
    for depth, level in enumerate(tree):
        assert len(set(level.nodes.tolist())) == len(level.nodes)
        leads_to = [
            list(trie.children(level.nodes[slot]))[child]
            for slot, child in zip(level.slots, level.children, strict=True)
        ]
        assert leads_to == paths[level.items, depth].tolist()
        if depth:
            above = tree[depth - 1].nodes[level.parents].tolist()
            assert all(node in trie.children(parent) for node, parent in zip(level.nodes, above, strict=True))


def test_a_chain_without_a_choice_costs_nothing():
    trie = PrefixTrie.build(ItemCodes(np.array([[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [2, 0, 0, 1]], np.uint8)))
    sizes = [len(level.nodes) for level in item_tree(trie, np.arange(2), skip_certain=True)]
    assert sizes == [1, 0, 0, 0], "the first level decides all"
    sizes = [len(level.nodes) for level in item_tree(trie, np.arange(4), skip_certain=True)]
    assert sizes == [1, 1, 1, 1], "the way to the one late choice"
