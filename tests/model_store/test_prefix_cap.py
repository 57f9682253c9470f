"""At most so many items of a list per prefix: the torch decoder against brute force over random catalogues."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_store.decoders.protocol import DecodeRequest
from model_store.item_codes import ItemCodes
from model_store.prefix_cap import turn_of_each
from model_store.prefix_trie import EligibleItems, PrefixTrie
from tests.model_store.test_torch_decoder import ITEMS, MODELS, World, catalogues, histories


@pytest.fixture(scope="module")
def neox():
    torch.manual_seed(0)
    return World(MODELS["gpt-neox"]())


def prefixes(codes, items, levels):
    return [tuple(code) for code in codes[items, :levels].tolist()]


def greedy(codes, ranked, cap, levels):
    """Go through the items, best first, and skip those whose prefix is full."""
    taken: Counter[tuple[int, ...]] = Counter()
    kept = []
    for item, prefix in zip(ranked, prefixes(codes, ranked, levels), strict=True):
        if taken[prefix] < cap:
            taken[prefix] += 1
            kept.append(item)
    return kept


@st.composite
def crowded_catalogues(draw):
    """Catalogues in which a few prefixes hold most items, of which a cap must leave out many."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = [draw(st.integers(1, 8)) for _ in range(4)]
    skew = draw(st.floats(1, 4))
    entries = random.random((draw(st.integers(1, 150)), 4)) ** skew * sizes
    return random.permutation(np.unique(entries.astype(np.uint8), axis=0))


@st.composite
def capped(draw, items):
    """Any request under a cap; sometimes without one, so that batches mix."""
    indices = st.integers(0, items - 1)
    mask = draw(st.none() | st.lists(st.booleans(), min_size=items, max_size=items))
    arrays = {
        name: np.array(draw(st.lists(indices, min_size=least, max_size=12)), dtype=np.int32)
        for name, least in (("history", 1), ("excluded", 0))
    }
    candidates = draw(st.none() | st.lists(indices, max_size=15))
    return arrays | {
        "candidates": None if candidates is None else np.array(candidates, dtype=np.int32),
        "mask": None if mask is None else np.array(mask),
        "n": draw(st.integers(1, 12)),
        "beam_width": draw(st.integers(1, 12) | st.just(items)),
        "max_per_prefix": draw(st.none() | st.integers(1, 5)),
        "prefix_levels": draw(st.integers(1, 4)),
    }


@given(codes=catalogues() | crowded_catalogues(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_capped_decode_returns_as_many_items_as_there_can_be_and_the_best_where_the_beam_is_wide(neox, codes, data):
    world = World(neox.model, codes=codes)
    requests = []
    for question in data.draw(st.lists(capped(len(codes)), min_size=1, max_size=5)):
        mask = question.pop("mask")
        eligible = None if mask is None else EligibleItems.from_mask(world.trie, mask)
        requests.append(DecodeRequest(eligible=eligible, **question))
    for request, answer in zip(requests, world.decoder.decode(requests), strict=True):
        exact = world.decoder.score_items(request.history, np.arange(len(codes), dtype=np.int32))
        items = [decoded.item for decoded in answer]
        allowed = set(range(len(codes)) if request.candidates is None else request.candidates.tolist())
        allowed -= set(request.excluded.tolist())
        if request.eligible is not None:
            allowed &= set(np.flatnonzero(request.eligible.mask).tolist())
        cap, levels = request.max_per_prefix or len(codes), request.prefix_levels

        best = greedy(codes, sorted(allowed, key=lambda item: -exact[item]), cap, levels)
        assert len(items) == len(set(items)) == min(request.n, len(best)), "as many as the cap leaves, up to n"
        assert set(items) <= allowed
        assert max(Counter(prefixes(codes, items, levels)).values(), default=0) <= cap
        np.testing.assert_allclose([decoded.score for decoded in answer], exact[items], atol=1e-3)
        assert [decoded.score for decoded in answer] == sorted((one.score for one in answer), reverse=True)
        if request.candidates is not None or request.width >= len(codes):
            np.testing.assert_allclose([one.score for one in answer], exact[best[: request.n]], atol=1e-3)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("cap", [1, 2, 3])
def test_a_beam_as_wide_as_the_trie_finds_the_exact_list(neox, cap, levels):
    for history in histories(6):
        exact = neox.decoder.score_items(history, np.arange(ITEMS, dtype=np.int32))
        best = greedy(neox.codes.codes_NL, np.argsort(-exact).tolist(), cap, levels)[:10]
        request = DecodeRequest(history=history, n=10, beam_width=ITEMS, max_per_prefix=cap, prefix_levels=levels)
        (answer,) = neox.decoder.decode([request])
        assert [decoded.item for decoded in answer] == best


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_narrowest_beam_finds_every_item_that_the_cap_leaves(neox, levels):
    prefix_count = len(set(prefixes(neox.codes.codes_NL, np.arange(ITEMS), levels)))
    for history in histories(3):
        request = DecodeRequest(history=history, n=prefix_count, beam_width=1, max_per_prefix=1, prefix_levels=levels)
        (answer,) = neox.decoder.decode([request])
        found = prefixes(neox.codes.codes_NL, [decoded.item for decoded in answer], levels)
        assert len(found) == len(set(found)) == prefix_count


@pytest.mark.parametrize("cap", [1, 2])
def test_a_shorter_list_is_the_beginning_of_a_longer_one_of_up_to_half_the_beam(neox, cap):
    for history in histories(12):
        lists = neox.decoder.decode(
            [DecodeRequest(history=history, n=n, beam_width=16, max_per_prefix=cap) for n in range(1, 9)]
        )
        assert [[one.item for one in some] for some in lists] == [
            [one.item for one in lists[-1][:n]] for n in range(1, 9)
        ]


def test_a_cap_that_no_list_reaches_changes_nothing(neox):
    for history in histories(4):
        plain = DecodeRequest(history=history, n=10, beam_width=ITEMS)
        loose = DecodeRequest(history=history, n=10, beam_width=ITEMS, max_per_prefix=10)
        free, held = neox.decoder.decode([plain, loose])
        assert [one.item for one in free] == [one.item for one in held]


@given(st.lists(st.integers(0, 5)))
def test_turns_count_those_of_the_group_that_come_before(groups: list[int]) -> None:
    expected = [groups[:place].count(group) for place, group in enumerate(groups)]
    assert turn_of_each(np.array(groups, dtype=np.int64)).tolist() == expected


@given(codes=catalogues())
def test_leaves_that_share_codes_share_a_prefix(codes: NDArray[np.uint8]) -> None:
    trie = PrefixTrie.build(ItemCodes(codes))
    for levels in range(1, 5):
        numbers = trie.prefixes(trie.item_leaf, levels)
        spelled = sorted(set(prefixes(codes, np.arange(len(codes)), levels)))
        assert [spelled[number] for number in numbers.tolist()] == prefixes(codes, np.arange(len(codes)), levels)
