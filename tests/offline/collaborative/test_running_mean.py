"""Histories as means of item vectors."""

import numpy as np
import pytest
import torch

from model_store.collaborative.configs import MatrixFactorizationConfig
from model_store.collaborative.encoder import PADDING
from model_store.collaborative.running_mean import RunningMeanEncoder

ITEMS = 12


@pytest.fixture
def encoder():
    encoder = RunningMeanEncoder(ITEMS, MatrixFactorizationConfig(size=4, temperature=0.5))
    vectors = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    encoder.load_state_dict({"item_vectors": torch.from_numpy(vectors)})
    return encoder


def test_a_state_is_the_unit_length_mean_of_the_items_so_far(encoder):
    vectors = encoder.vectors().numpy()
    states = encoder(torch.tensor([[7, 2, 2, 11], [5, 0, PADDING, PADDING]])).numpy()
    for row, items in ((0, [7, 2, 2, 11]), (1, [5, 0])):
        for end in range(1, len(items) + 1):
            mean = vectors[items[:end]].mean(axis=0)
            np.testing.assert_allclose(states[row, end - 1], mean / np.linalg.norm(mean), rtol=1e-5)


def test_the_order_of_a_history_does_not_matter(encoder):
    forwards, backwards = encoder.next_item_logits([np.array([3, 1, 4], np.int32), np.array([4, 1, 3], np.int32)])
    torch.testing.assert_close(forwards, backwards)


def test_a_score_is_the_cosine_over_the_temperature(encoder):
    vectors = encoder.vectors().numpy()
    logits = encoder.next_item_logits([np.array([3], np.int32)])[0].numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(logits, vectors @ vectors[3] / lengths / lengths[3] / 0.5, rtol=1e-4, atol=1e-5)


def test_what_was_seen_is_never_likely_and_what_comes_later_is_not_known_yet(encoder):
    items = [7, 2, 11, 5]
    likely = encoder.likelihoods(torch.tensor([items]))
    for place in range(1, len(items)):
        assert (likely[place, items[:place]] == 0).all()
        unseen = [item for item in range(ITEMS) if item not in items[:place]]
        assert (likely[place, unseen] > 0).all()


def test_who_has_seen_everything_is_still_given_likelihoods(encoder):
    likely = encoder.likelihoods(torch.tensor([[*range(ITEMS), 0]]))
    torch.testing.assert_close(likely[-1], torch.ones(ITEMS))
