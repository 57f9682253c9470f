"""AUC and UAUC against counting pairs by hand."""

import itertools

import numpy as np
import pytest

from offline.rankers.judging_metrics import auc, first_place_ranks, uauc


def by_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    pairs = list(itertools.product(scores[labels], scores[~labels]))
    return sum((liked > not_liked) + 0.5 * (liked == not_liked) for liked, not_liked in pairs) / len(pairs)


def test_auc_is_the_share_of_pairs_in_order_ties_counting_half() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        scores = random.integers(0, 6, 40).astype(np.float32)
        labels = random.random(40) < 0.4
        assert auc(scores, labels) == pytest.approx(by_pairs(scores, labels))


def test_a_score_that_says_nothing_has_half() -> None:
    assert auc(np.zeros(5), np.array([True, False, True, False, False])) == 0.5


def test_one_label_alone_has_no_auc() -> None:
    assert np.isnan(auc(np.array([1.0, 2.0]), np.array([True, True])))
    assert np.isnan(auc(np.empty(0), np.empty(0, bool)))


def test_uauc_is_the_plain_mean_over_users_with_both_labels() -> None:
    users = np.array([3, 1, 3, 1, 1, 2, 2, 9])
    labels = np.array([1, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
    scores = np.array([0.2, 0.9, 0.8, 0.95, 0.1, 0.5, 0.4, 0.3])
    # User 1: one of two pairs in order; user 3: none; users 2 and 9 have one label.
    assert uauc(scores, labels, users) == pytest.approx((0.5 + 0.0) / 2)
    assert np.isnan(uauc(scores, labels, np.arange(8)))


def test_ties_are_held_against_the_first_candidate() -> None:
    assert first_place_ranks(np.array([[1.0, 0.0, 0.5], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])).tolist() == [1, 2, 3]
