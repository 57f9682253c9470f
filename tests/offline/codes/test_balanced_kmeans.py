import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import TesseraError
from offline.codes.balanced_kmeans import balanced_kmeans, cluster_means


def clustered(count, clusters, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 16))
    points = centres[rng.integers(0, clusters, count)] + 0.3 * rng.normal(size=(count, 16))
    return points.astype(np.float32)


def inertia(points, labels, clusters):
    return float(((points - cluster_means(points, labels, clusters)[labels]) ** 2).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 300), st.integers(0, 8), st.integers(0, 3))
def test_sizes_differ_by_at_most_one_even_when_points_repeat(count, clusters, distinct, iterations, seed):
    points = clustered(distinct, 3, seed)[np.random.default_rng(seed).integers(0, distinct, count)]
    labels = balanced_kmeans(points, clusters, iterations, seed)
    sizes = np.bincount(labels, minlength=clusters)
    assert len(labels) == count
    assert len(sizes) == clusters
    assert sizes.max() - sizes.min() <= 1


def test_the_same_seed_gives_the_same_clusters_and_another_seed_others():
    points = clustered(500, 9)
    first, again, other = (balanced_kmeans(points, 12, 20, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(("count", "clusters"), [(3000, 20), (4000, 64)])
def test_it_is_nearly_as_tight_as_plain_kmeans_and_far_tighter_than_chance(count, clusters):
    points = clustered(count, clusters)
    plain = faiss.Kmeans(16, clusters, niter=50, seed=0)
    plain.train(points)
    unbalanced = inertia(points, plain.index.search(points, 1)[1][:, 0], clusters)
    labels = balanced_kmeans(points, clusters, 50, 0)
    balanced = inertia(points, labels, clusters)
    by_chance = inertia(points, np.random.default_rng(0).permutation(labels), clusters)
    assert balanced < 1.3 * unbalanced
    assert balanced < 0.5 * by_chance


def test_more_rounds_never_make_it_worse():
    """A round of the clusters taking turns can; it must not show."""
    points = clustered(600, 40)
    values = [inertia(points, balanced_kmeans(points, 25, rounds, 0), 25) for rounds in (1, 3, 10, 40)]
    assert values[-1] < values[0]
    assert values[-1] <= min(values) * 1.02


def test_where_the_points_lie_far_from_the_origin_makes_no_difference():
    points = clustered(400, 8)
    far = balanced_kmeans(points + 500, 8, 30, 0)
    assert inertia(points, far, 8) < 1.05 * inertia(points, balanced_kmeans(points, 8, 30, 0), 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_its_number(bad):
    points = clustered(50, 3)
    points[7, 2] = bad
    with pytest.raises(TesseraError, match="vectors of 1 items are not finite; the first is item 7"):
        balanced_kmeans(points, 5, 5, 0)


def test_means_are_those_of_the_clusters_and_zero_where_there_is_nobody():
    points = np.array([[1, 0], [3, 0], [0, 5]], np.float32)
    np.testing.assert_array_equal(cluster_means(points, np.array([2, 2, 0]), 4), [[0, 5], [0, 0], [2, 0], [0, 0]])
