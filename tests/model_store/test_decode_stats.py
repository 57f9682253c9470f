"""What a decoder says its decodes cost."""

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.decoders.decode_stats import DecodeStats
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.prefix_trie import EligibleItems
from tests.tiny_bundle import build_tiny_bundle

ITEMS = 60
EVERY_PREFIX = 60
HISTORY = np.array([1, 2, 3], dtype=np.int32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), items=ITEMS)


def observed(bundle: Bundle, requests: list[DecodeRequest]) -> DecodeStats:
    decoder = TorchDecoder.from_bundle(bundle)
    found: list[DecodeStats] = []
    decoder.observer = found.append
    decoder.for_version(bundle).decode(requests)
    (stats,) = found
    return stats


def closed_share(bundle: Bundle, eligible: EligibleItems | None, excluded: list[int]) -> float:
    """By walking the trie: of the children of every node that is open, those that are closed."""
    trie = bundle.trie
    shown = np.ones(ITEMS, dtype=np.bool_) if eligible is None else eligible.mask.copy()
    shown[excluded] = False
    shown_leaves = shown[trie.leaf_item]
    nodes, children, closed = np.zeros(1, dtype=np.int64), 0, 0
    for _ in range(trie.levels):
        below = np.concatenate([np.asarray(trie.children(int(node))) for node in nodes])
        nodes = below[[shown_leaves[trie.leaf_begin[node] : trie.leaf_end[node]].any() for node in below]]
        children, closed = children + len(below), closed + len(below) - len(nodes)
    return closed / children


def test_masked_share_counts_the_children_of_every_live_beam(bundle: Bundle) -> None:
    few = EligibleItems.from_mask(bundle.trie, np.arange(ITEMS) % 5 == 0)
    asked: list[tuple[EligibleItems | None, list[int]]] = [(None, []), (few, []), (None, [1, 2, 3, 40]), (few, [0, 5])]
    requests = [
        DecodeRequest(
            history=HISTORY,
            n=5,
            # Nothing falls off the beam, so that it walks the whole open trie; another width makes another batch.
            beam_width=EVERY_PREFIX + number % 2,
            eligible=eligible,
            excluded=np.array(excluded, dtype=np.int32),
        )
        for number, (eligible, excluded) in enumerate(asked)
    ]
    stats = observed(bundle, requests)
    expected = [closed_share(bundle, eligible, excluded) for eligible, excluded in asked]
    assert min(expected[1:]) > 0
    assert sorted(stats.masked_shares) == pytest.approx(sorted(expected))


def test_steps_are_forward_passes(bundle: Bundle) -> None:
    search = DecodeRequest(history=HISTORY, n=5, beam_width=10)
    rank = DecodeRequest(history=HISTORY, n=5, beam_width=10, candidates=np.arange(9, dtype=np.int32))
    alone, both = observed(bundle, [search, search]).steps, observed(bundle, [search, rank])
    # A pass in which no beam has a choice to make is none.
    assert alone["prompt"] == 1
    assert 1 <= alone["beams"] < bundle.trie.levels
    assert both.steps == {**alone, "candidates": 1}
    assert set(both.seconds) == {"render", "prompt", "beams", "candidates", "select"}
    assert min(both.seconds.values()) > 0


def test_nothing_open_is_a_share_of_one(bundle: Bundle) -> None:
    nothing = EligibleItems.from_mask(bundle.trie, np.zeros(ITEMS, dtype=np.bool_))
    request = DecodeRequest(history=HISTORY, n=5, beam_width=5, eligible=nothing)
    assert observed(bundle, [request]).masked_shares == [1.0]
