import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import TesseraError
from offline.codes.config import CodesConfig
from offline.codes.residual_kmeans import quantize


def clustered(count, clusters, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 16))
    labels = rng.integers(0, clusters, count)
    return (centres[labels] + 0.05 * rng.normal(size=(count, 16))).astype(np.float32), labels


def test_near_items_share_prefixes():
    vectors, labels = clustered(800, 20)
    codes = quantize(vectors, CodesConfig(entries=32), seed=0).codes_NL
    same_first = codes[:, None, 0] == codes[None, :, 0]
    same_cluster = labels[:, None] == labels[None, :]
    assert same_cluster[same_first].mean() > 0.9


def test_the_same_seed_gives_the_same_codes_and_another_seed_others():
    vectors, _ = clustered(400, 10)
    first, again, other = (quantize(vectors, CodesConfig(), seed=seed).codes_NL for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(16, 400), st.integers(1, 30), st.integers(0, 3))
def test_every_item_gets_a_code_of_its_own_even_when_vectors_repeat(count, distinct, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct, 8)).astype(np.float32)[rng.integers(0, distinct, count)]
    codes = quantize(vectors, CodesConfig(iterations=5), seed=seed).codes_NL
    assert len(np.unique(codes, axis=0)) == count


def test_the_report_counts_collisions_before_they_are_resolved():
    vectors = np.repeat(clustered(50, 50)[0], 2, axis=0)
    report = quantize(vectors, CodesConfig(), seed=0).report
    assert report["share_of_items_colliding_before"] == 1.0
    assert report["largest_bucket_before"] >= 2
    assert report["items_moved"] >= 50
    assert report["distinct_prefixes"][-1] == 100


def test_more_entries_leave_less_unexplained():
    vectors, _ = clustered(400, 40)
    few, many = (
        quantize(vectors, CodesConfig(entries=entries), seed=0).report["unexplained_variance"] for entries in (2, 32)
    )
    assert 0 < many < few < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entries": 257}, r"codes\.entries"),
        ({"kind": "trees"}, r"codes\.kind must be one of kmeans, codebooks, dual, mixed, random"),
        ({"input": "price"}, r"codes\.input"),
        ({"alignment": "mse"}, r"codes\.alignment"),
        ({"align_to": "catalogue"}, r"codes\.align_to"),
    ],
)
def test_a_setting_that_makes_no_codes_is_refused_by_name(settings, message):
    with pytest.raises(TesseraError, match=message):
        CodesConfig(**settings)
