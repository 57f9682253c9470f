"""Scores mixed with a collaborative encoder's, against the definition: every item scored by both."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.bundle import Bundle
from model_store.collaborative.encoder_files import load_encoder
from model_store.decoders.collaborative_score import CollaborativeScore, Opinions
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.decoders.trie_tensors import TrieTensors
from model_store.prefix_trie import EligibleItems
from tests.tiny_bundle import build_tiny_bundle

ITEMS, WEIGHT = 90, 0.4
EVERYTHING = np.arange(ITEMS, dtype=np.int32)
HISTORIES = [np.array(items, dtype=np.int32) for items in ([3], [5, 6, 5, 80], list(range(40)))]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), items=ITEMS, collaborative_weight=WEIGHT)


@pytest.fixture(scope="module")
def decoder(bundle: Bundle) -> TorchDecoder:
    return TorchDecoder.from_bundle(bundle, device="cpu")


def defined_scores(bundle: Bundle, decoder: TorchDecoder, history: np.ndarray) -> np.ndarray:
    encoder = load_encoder(bundle.teacher_path)
    theirs = encoder.next_item_logits([history])[0].double().log_softmax(-1).numpy()
    return (1 - WEIGHT) * decoder.alone().score_items(history, EVERYTHING) + WEIGHT * theirs


def request(history: np.ndarray, **settings) -> DecodeRequest:
    return DecodeRequest(**{"history": history, "n": ITEMS, "beam_width": ITEMS} | settings)


def test_a_beam_search_returns_the_items_of_the_best_mixed_scores(bundle, decoder):
    rng = np.random.default_rng(0)
    eligible = EligibleItems.from_mask(bundle.trie, rng.random(ITEMS) < 0.7)
    excluded = rng.integers(0, ITEMS, 20).astype(np.int32)
    open_items = np.setdiff1d(np.flatnonzero(eligible.mask), excluded)
    # One batch of users with their own lengths; a wide beam sees everything.
    answers = decoder.decode([request(history, eligible=eligible, excluded=excluded) for history in HISTORIES])
    for history, answer in zip(HISTORIES, answers, strict=True):
        scores = defined_scores(bundle, decoder, history)
        best = open_items[np.argsort(-scores[open_items])]
        assert [one.item for one in answer] == best.tolist()
        np.testing.assert_allclose([one.score for one in answer], scores[best], atol=1e-4)


def test_it_is_another_ranking_than_either_makes_alone(bundle, decoder):
    history = HISTORIES[1]
    mixed = [one.item for one in decoder.decode([request(history, n=10)])[0]]
    alone = [one.item for one in decoder.alone().decode([request(history, n=10)])[0]]
    theirs = load_encoder(bundle.teacher_path).next_item_logits([history])[0].argsort(descending=True)
    assert mixed != alone
    assert mixed != theirs[:10].tolist()


def test_candidates_and_single_items_score_as_in_a_search(bundle, decoder):
    history = HISTORIES[2]
    scores = defined_scores(bundle, decoder, history)
    items = np.array([8, 70, 33], dtype=np.int32)
    np.testing.assert_allclose(decoder.score_items(history, items), scores[items], atol=1e-4)
    ranked = decoder.decode([request(history, n=2, candidates=items)])[0]
    assert [one.item for one in ranked] == items[np.argsort(-scores[items])][:2].tolist()


def test_beside_a_query_the_language_model_ranks_alone(decoder):
    requests = [request(HISTORIES[1], query="warm wool socks"), request(np.empty(0, np.int32), query="garden")]
    # Beside a user who asks for nothing, so that one batch holds both kinds.
    mixed = decoder.decode([*requests, request(HISTORIES[1])])
    assert mixed[:2] == decoder.alone().decode([*requests, request(HISTORIES[1])])[:2]
    items = np.array([8, 70], dtype=np.int32)
    both = [one.score_items(HISTORIES[1], items, query="red") for one in (decoder, decoder.alone())]
    np.testing.assert_array_equal(*both)


def test_a_beam_wide_enough_finds_items_that_rounding_hides(bundle):
    """Two items of a shared prefix whose probabilities vanish beside 1 in double precision."""
    trie = bundle.trie
    leaves = int(np.flatnonzero(trie.leaf_end - trie.leaf_begin == 2)[0])
    log_probs = torch.full((1, ITEMS), -60.0, dtype=torch.float64)
    log_probs[0, 0] = 0.0
    tensors = TrieTensors(trie, torch.device("cpu"))
    opinions = Opinions(log_probs, torch.tensor([WEIGHT]))
    mixed = opinions.mixed(torch.zeros(1, 1, 1, dtype=torch.float64), torch.tensor([[[leaves]]]), tensors)
    assert mixed.isfinite().all()


def test_an_item_added_after_training_is_scored_like_its_neighbours(tmp_path: Path, bundle: Bundle):
    encoder = load_encoder(bundle.teacher_path)
    embeddings = bundle.item_embeddings
    # As near as can be to item 7, and nowhere near the others.
    embeddings = np.concatenate([embeddings, 5 * embeddings[[7]]])
    CollaborativeScore(encoder, WEIGHT, np.arange(ITEMS + 1), embeddings)
    nearest = np.argsort(-(embeddings[:ITEMS] @ embeddings[7]))[:8]
    theirs = encoder.vectors()[torch.from_numpy(nearest)]
    added = encoder.vectors()[ITEMS]
    torch.testing.assert_close(added.norm(), theirs.norm(dim=-1).mean())
    torch.testing.assert_close(added / added.norm(), theirs.mean(dim=0) / theirs.mean(dim=0).norm())
    logits = encoder.next_item_logits([np.array([7], np.int32), np.array([ITEMS], np.int32)])
    assert logits.shape == (2, ITEMS + 1)
    assert logits.isfinite().all()
