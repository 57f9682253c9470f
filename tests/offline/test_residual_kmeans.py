import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import TesseraError
from offline.residual_kmeans import CodesConfig, make_unique, quantize


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


def test_of_items_that_share_a_code_the_best_quantized_keeps_it_and_the_others_stay_under_its_prefix():
    codebooks = np.zeros((4, 256, 2), dtype=np.float32)
    codebooks[3, :4] = [[0, 0], [1, 0], [0, 1], [5, 5]]
    vectors = np.array([[0.2, 0.0], [0.1, 0.0], [0.3, 0.0]], dtype=np.float32)
    codes, moved = make_unique(np.zeros((3, 4), dtype=np.uint8), vectors, codebooks, entries=4)
    assert moved == 2
    assert codes[1].tolist() == [0, 0, 0, 0]
    assert codes[:, :3].tolist() == [[0, 0, 0]] * 3
    assert codes[0, 3] == 1


def test_more_than_256_items_of_one_prefix_spill_over_one_level_up():
    codebooks = np.zeros((4, 256, 2), dtype=np.float32)
    vectors = np.zeros((600, 2), dtype=np.float32)
    codes, _ = make_unique(np.zeros((600, 4), dtype=np.uint8), vectors, codebooks, entries=4)
    assert len(np.unique(codes, axis=0)) == 600
    assert len(np.unique(codes[:, :2], axis=0)) == 1


def test_the_report_counts_collisions_before_they_are_resolved():
    vectors = np.repeat(clustered(50, 50)[0], 2, axis=0)
    report = quantize(vectors, CodesConfig(), seed=0).report
    assert report["share_of_items_colliding_before"] == 1.0
    assert report["items_moved"] >= 50
    assert report["distinct_prefixes"][-1] == 100


def test_a_codebook_that_does_not_fit_a_byte_is_refused():
    with pytest.raises(TesseraError, match=r"codes\.entries"):
        CodesConfig(entries=257)
