"""Metrics by hand."""

import math

import numpy as np
import pytest

from offline.ranking_metrics import ranking_metrics, ranks_in_lists, ranks_in_scores


def test_recall_and_ndcg_by_hand():
    metrics = ranking_metrics(np.array([1, 6, 0, 20]))
    assert metrics["recall@5"] == 0.25
    assert metrics["recall@10"] == 0.5
    assert metrics["recall@20"] == 0.75
    assert metrics["ndcg@5"] == pytest.approx(1 / 4)
    assert metrics["ndcg@20"] == pytest.approx((1 + 1 / math.log2(7) + 1 / math.log2(21)) / 4)


def test_keys_are_those_of_the_evaluate_contract():
    expected = {f"{metric}@{cutoff}" for metric in ("recall", "ndcg") for cutoff in (5, 10, 20)}
    assert set(ranking_metrics(np.array([1]))) == expected


def test_a_model_that_scores_everything_alike_ranks_the_target_last():
    assert ranks_in_scores(np.zeros((1, 50)), np.array([7])).tolist() == [50]


def test_an_excluded_target_is_not_ranked():
    scores = np.array([[0.1, -np.inf, 0.3]])
    assert ranks_in_scores(scores, np.array([1])).tolist() == [0]


def test_rank_in_a_list_and_absence():
    assert ranks_in_lists([[5, 3, 9], [5, 3, 9]], np.array([3, 4])).tolist() == [2, 0]
