"""Negatives, and the item vectors of each model against dense formulas."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from model_store.collaborative.configs import DCCFConfig, LightGCNConfig, MatrixFactorizationConfig
from offline.collaborative.bipartite_graph import BipartiteGraph
from offline.collaborative.dccf import DCCF
from offline.collaborative.item_vector_training import draw_negatives, owned, ranking_loss
from offline.collaborative.lightgcn import LightGCN
from tests.offline.collaborative.clustered_shop import clustered_shop, histories

ITEMS = 30


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12), min_size=1, max_size=8),
    st.integers(1, 2 * ITEMS),
    st.integers(0, 5),
)
def test_a_negative_counts_for_a_user_exactly_when_it_is_not_among_the_users_training_items(rows, count, seed):
    graph = BipartiteGraph.from_histories(histories([*rows, [0]]), ITEMS)
    negatives = draw_negatives(ITEMS, count, torch.Generator().manual_seed(seed))
    assert len(set(negatives.tolist())) == len(negatives) == min(count, ITEMS)
    users = torch.tensor([0, len(rows) - 1, len(rows), 0])
    expected = [[item in [*rows, [0]][user] for item in negatives.tolist()] for user in users.tolist()]
    assert owned(users, negatives, graph).tolist() == expected


def test_an_item_the_user_has_costs_nothing_as_a_negative_and_gets_no_gradient():
    graph = BipartiteGraph.from_histories(histories([[0, 1, 2], [3, 4]]), items=6)
    vectors = torch.randn(6, 4, requires_grad=True)
    state = functional.normalize(torch.randn(1, 4), dim=-1)
    config = MatrixFactorizationConfig(size=4)
    user, item = torch.tensor([0]), torch.tensor([0])
    both = ranking_loss(state, vectors, user, item, torch.tensor([2, 5]), graph, config)
    fair = ranking_loss(state, vectors, user, item, torch.tensor([5]), graph, config)
    torch.testing.assert_close(both, fair)
    both.backward()
    assert (vectors.grad[2] == 0).all()
    assert (vectors.grad[5] != 0).any()


def test_with_one_negative_the_loss_is_that_of_bpr():
    graph = BipartiteGraph.from_histories(histories([[0, 1]]), items=4)
    vectors = functional.normalize(torch.randn(4, 8), dim=-1)
    state = vectors[1:2]
    config = MatrixFactorizationConfig(size=8, temperature=0.5)
    loss = ranking_loss(state, vectors, torch.tensor([0]), torch.tensor([0]), torch.tensor([3]), graph, config)
    difference = (state @ vectors[0] - state @ vectors[3]) / 0.5
    torch.testing.assert_close(loss, -functional.logsigmoid(difference).mean())


def small_graph():
    shop = clustered_shop(users=25, clusters=3, per_cluster=10)
    return BipartiteGraph.from_histories(shop.train, shop.items)


def dense(graph):
    matrix = torch.zeros(graph.users, graph.items)
    matrix[graph.user_E, graph.item_E] = 1
    return matrix


def normalised(matrix):
    return matrix / (matrix.sum(1, keepdim=True).clamp(min=1) * matrix.sum(0).clamp(min=1)).sqrt()


def test_lightgcn_is_the_mean_over_layers_of_degree_normalised_sums():
    graph = small_graph()
    model = LightGCN(graph, LightGCNConfig(size=8, layers=3))
    adjacency = normalised(dense(graph))
    users, items = model.state_dict()["users"], model.state_dict()["items"]
    layers = [items]
    for _ in range(3):
        users, items = adjacency @ items, adjacency.T @ users
        layers.append(items)
    torch.testing.assert_close(model.item_vectors(), torch.stack(layers).mean(0))


def test_dccf_sums_messages_of_graph_intents_and_both_masks():
    graph = small_graph()
    model = DCCF(graph, DCCFConfig(size=8, layers=2, intents=5))
    edges = dense(graph)
    adjacency = normalised(edges)
    weights = model.state_dict()
    users, items = weights["users"], weights["items"]

    def masked(of_users, of_items):
        agreement = functional.normalize(of_users, dim=1) @ functional.normalize(of_items, dim=1).T
        mask = edges * (agreement + 1) / 2
        return mask / mask.sum(1, keepdim=True) @ items, (mask / mask.sum(0).clamp(min=1e-6)).T @ users

    total = items
    for _ in range(2):
        graph_users, graph_items = adjacency @ items, adjacency.T @ users
        intent_users = (users @ weights["user_intents"].T).softmax(1) @ weights["user_intents"]
        intent_items = (items @ weights["item_intents"].T).softmax(1) @ weights["item_intents"]
        by_graph, by_intent = masked(graph_users, graph_items), masked(intent_users, intent_items)
        users, items = (
            users + graph_users + intent_users + by_graph[0] + by_intent[0],
            items + graph_items + intent_items + by_graph[1] + by_intent[1],
        )
        total = total + items
    torch.testing.assert_close(model.item_vectors(), total)


def test_dccf_pays_for_views_that_disagree_by_the_weight_of_the_contrast():
    graph = small_graph()
    users, items = graph.user_E[:40], graph.item_E[:40]
    costs = []
    for weight in (0.0, 0.1, 0.2):
        torch.manual_seed(0)
        costs.append(DCCF(graph, DCCFConfig(size=8, contrast_weight=weight))(users, items)[1].item())
    assert costs[0] == 0
    assert costs[1] > 0
    assert abs(costs[2] - 2 * costs[1]) < 1e-4
