"""The room that a list has for each prefix, and the fallbacks that look at it, against going through items by hand."""

from collections import Counter
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.neighbors import Neighbors
from app.popular_items import PopularItems
from app.prefix_quota import PrefixQuota
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import EligibleItems, PrefixTrie

MANY = 25_000
"""Enough that wide filters are answered by the index."""


def random_codes(random: np.random.Generator, count: int) -> ItemCodes:
    packed = random.choice(2**32, size=count, replace=False).astype(">u4")
    return ItemCodes((packed.view(np.uint8).reshape(count, 4) % np.array([16, 256, 256, 256])).astype(np.uint8))


class ByHand:
    """Takes one item after the other."""

    def __init__(self, codes: ItemCodes, levels: int, most: int) -> None:
        self.codes, self.levels, self.most = codes, levels, most
        self.taken: Counter[bytes] = Counter()

    def take(self, item: int) -> bool:
        prefix = self.codes.codes_NL[item, : self.levels].tobytes()
        self.taken[prefix] += 1
        return self.taken[prefix] <= self.most

    def has_room(self, item: int) -> bool:
        return self.taken[self.codes.codes_NL[item, : self.levels].tobytes()] < self.most


@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.integers(1, 3),
    most=st.integers(1, 4),
    taken=st.integers(0, 30),
    share=st.sampled_from([0.0, 0.1, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_room_is_what_is_left_by_the_items_taken(seed: int, levels: int, most: int, taken: int, share: float) -> None:
    random = np.random.default_rng(seed)
    codes = ItemCodes(np.unique((random.random((60, 4)) ** 2 * 6).astype(np.uint8), axis=0))
    count = len(codes)
    trie = PrefixTrie.build(codes)
    quota, by_hand = PrefixQuota(trie, levels, most), ByHand(codes, levels, most)
    order = random.permutation(count).tolist()
    before, after = order[:taken], np.array(order[taken:], dtype=np.int64)
    assert [quota.take(item) for item in before] == [by_hand.take(item) for item in before]
    room = [by_hand.has_room(item) for item in after.tolist()]
    assert quota.has_room(after).tolist() == room
    mask = random.random(count) < share
    left = [has_room and bool(mask[item]) for item, has_room in zip(after.tolist(), room, strict=True)]
    assert quota.anything_left(EligibleItems.from_mask(trie, mask), set(before)) == any(left)
    assert quota.fitting(after).tolist() == [by_hand.take(item) for item in after.tolist()]


@pytest.fixture(scope="module")
def codes() -> ItemCodes:
    return random_codes(np.random.default_rng(3), MANY)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3, 0.001])
@pytest.mark.parametrize(("levels", "most"), [(1, 1), (1, 5), (2, 1)])
def test_fallbacks_go_through_their_order_and_skip_full_prefixes(
    codes: ItemCodes, tmp_path: Path, share: float, levels: int, most: int
) -> None:
    random = np.random.default_rng(4)
    vectors = random.normal(size=(MANY, 8)).astype(np.float32)
    # Near items share their first code, as learned codes do.
    vectors[:, 0] += codes.codes_NL[:, 0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "items.faiss"))
    trie = PrefixTrie.build(codes)
    mask = random.random(MANY) < share
    eligible = EligibleItems.from_mask(trie, mask)
    popularity = random.permutation(MANY).astype(np.float32)
    neighbors = Neighbors(vectors, tmp_path / "items.faiss")
    query = neighbors.query_of([1, 2, 3])
    for scores in (vectors @ query, popularity):
        order = np.argsort(-scores, kind="stable").tolist()
        hidden = set(order[:7])
        quota, by_hand = PrefixQuota(trie, levels, most), ByHand(codes, levels, most)
        for item in order[:7]:
            assert quota.take(item) == by_hand.take(item)
        expected = [item for item in order if mask[item] and item not in hidden and by_hand.take(item)][:40]
        if scores is popularity:
            found, _ = PopularItems(popularity).top(40, mask, hidden, quota)
        else:
            found, _ = neighbors.search(query, 40, eligible, hidden, quota)
        assert found.tolist() == expected
