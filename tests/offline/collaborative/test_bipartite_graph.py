"""Users, items and edges, against dense matrices."""

import pytest
import torch

from offline.collaborative.bipartite_graph import BipartiteGraph
from tests.offline.collaborative.clustered_shop import clustered_shop, histories


@pytest.fixture(scope="module")
def graph():
    shop = clustered_shop(users=20, clusters=3, per_cluster=10)
    return BipartiteGraph.from_histories(shop.train, shop.items)


def dense(graph):
    matrix = torch.zeros(graph.users, graph.items)
    matrix[graph.user_E, graph.item_E] = 1
    return matrix


def test_an_item_taken_twice_is_one_edge_and_users_and_items_without_edges_stay():
    graph = BipartiteGraph.from_histories(histories([[4, 1, 4], [], [0]]), items=6)
    assert dense(graph).tolist() == [[0, 1, 0, 0, 1, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]
    assert graph.user_degrees.tolist() == [2, 0, 1]
    assert graph.item_degrees.tolist() == [1, 1, 0, 0, 1, 0]


def test_the_normalised_adjacency_is_that_of_dense_matrices(graph):
    adjacency = dense(graph)
    degrees = torch.cat([adjacency.sum(1), adjacency.sum(0)]).clamp(min=1)
    whole = torch.zeros(graph.users + graph.items, graph.users + graph.items)
    whole[: graph.users, graph.users :] = adjacency
    whole[graph.users :, : graph.users] = adjacency.T
    expected = whole / (degrees[:, None] * degrees[None]).sqrt()
    users, items = torch.randn(graph.users, 5), torch.randn(graph.items, 5)
    product = expected @ torch.cat([users, items])
    torch.testing.assert_close(graph.normalized().to_users(items), product[: graph.users])
    torch.testing.assert_close(graph.normalized().to_items(users), product[graph.users :])


def test_sums_and_their_gradients_are_those_of_dense_matrices(graph):
    weights = torch.rand(len(graph.user_E))
    sparse = graph.matrix(weights)
    plain = torch.zeros(graph.users, graph.items)
    plain[graph.user_E, graph.item_E] = weights
    for sums, matrix in ((sparse.to_users, plain), (sparse.to_items, plain.T)):
        vectors = torch.randn(matrix.shape[1], 5, requires_grad=True)
        upstream = torch.randn(matrix.shape[0], 5)
        torch.testing.assert_close(sums(vectors), matrix @ vectors)
        (gradient,) = torch.autograd.grad((sums(vectors) * upstream).sum(), vectors)
        torch.testing.assert_close(gradient, matrix.T @ upstream)


def test_edge_products_are_those_of_the_vectors_at_the_two_ends(graph):
    users, items = torch.randn(graph.users, 5), torch.randn(graph.items, 5)
    expected = (users @ items.T)[graph.user_E, graph.item_E]
    torch.testing.assert_close(graph.edge_products(users, items), expected)
