"""The trie and its filters on a device against the trie itself."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_store.decoders.open_leaves import OpenLeaves
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.trie_tensors import TrieTensors
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import EligibleItems, PrefixTrie

CPU = torch.device("cpu")

code_sets = hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.just(4)), elements=st.integers(0, 4)).map(
    lambda codes: np.unique(codes, axis=0)
)


def request(excluded, eligible):
    excluded = np.array(excluded, dtype=np.int32)
    return DecodeRequest(history=np.zeros(1, np.int32), n=1, beam_width=1, excluded=excluded, eligible=eligible)


@given(code_sets, st.data())
def test_children_are_those_of_the_trie(codes, data):
    trie = PrefixTrie.build(ItemCodes(codes))
    tensors = TrieTensors(trie, CPU)
    depth = data.draw(st.integers(0, 3))
    of_depth = st.integers(int(trie.level_begin[depth]), int(trie.level_begin[depth + 1]) - 1)
    nodes = data.draw(hnp.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=of_depth))
    children_UBC, real_UBC = tensors.children(torch.from_numpy(nodes), depth)
    assert children_UBC.shape == real_UBC.shape
    for place, node in np.ndenumerate(nodes):
        assert children_UBC[place][real_UBC[place]].tolist() == list(trie.children(int(node)))
    assert children_UBC.shape[-1] == tensors.widest(depth)


@settings(max_examples=200)
@given(code_sets, st.data())
def test_each_user_of_a_batch_has_a_filter_and_exclusions_of_their_own(codes, data):
    count = len(codes)
    trie = PrefixTrie.build(ItemCodes(codes))
    masks = data.draw(st.lists(hnp.arrays(np.bool_, count), min_size=1, max_size=2))
    filters = [None, *(EligibleItems.from_mask(trie, mask) for mask in masks)]
    excluded = st.lists(st.integers(0, count - 1), max_size=8)
    users = data.draw(st.lists(st.tuples(excluded, st.sampled_from(filters)), min_size=1, max_size=4))
    nodes = np.arange(len(trie.token))
    asked = torch.from_numpy(nodes).expand(len(users), 1, -1)
    open_leaves = OpenLeaves(trie, [request(*user) for user in users], CPU)
    found = open_leaves.below(TrieTensors(trie, CPU), asked)
    for row, (items, eligible) in zip(found[:, 0].numpy(), users, strict=True):
        allowed = {item for item in range(count) if (eligible is None or eligible.mask[item]) and item not in items}
        for node in nodes:
            below = set(trie.leaf_item[trie.leaf_begin[node] : trie.leaf_end[node]].tolist())
            assert row[node] == bool(below & allowed)


def test_a_trie_and_a_filter_take_no_second_copy_on_a_cpu():
    codes = np.unique(np.random.default_rng(0).integers(0, 40, (5000, 4)).astype(np.uint8), axis=0)
    trie = PrefixTrie.build(ItemCodes(codes))
    stored = sum(array.nbytes for array in (trie.first_child, trie.token, trie.leaf_begin, trie.leaf_end))
    tensors = TrieTensors(trie, CPU)
    assert tensors.nbytes == stored
    trie.token[3] = 77
    assert tensors.token[torch.tensor([3])].tolist() == [77]

    eligible = EligibleItems.from_mask(trie, np.arange(len(codes)) % 2 == 0)
    assert eligible.on_devices == {}
    OpenLeaves(trie, [request([], eligible)], CPU)
    (kept,) = eligible.on_devices.values()
    assert kept.data_ptr() == eligible.counts.ctypes.data


def test_a_filters_prefix_sum_is_put_on_a_device_once():
    codes = np.unique(np.random.default_rng(0).integers(0, 9, (300, 4)).astype(np.uint8), axis=0)
    trie = PrefixTrie.build(ItemCodes(codes))
    eligible = EligibleItems.from_mask(trie, np.arange(len(codes)) % 3 == 0)
    kept = []
    for _ in range(2):
        OpenLeaves(trie, [request([1], eligible), request([], None), request([2], eligible)], CPU)
        kept += eligible.on_devices.values()
    assert len(kept) == 2
    assert kept[0] is kept[1]
