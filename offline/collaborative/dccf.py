"""DCCF: a graph convolution that also sees which intents users and items share, and must agree with itself.

Follows Ren et al., "Disentangled Contrastive Collaborative Filtering" (arXiv:2305.02759). In every layer a vector takes
up four messages: of the graph; of the intents, a mixture of K learned prototypes by softmax attention (users and items
have their own); and of the graph once more under two adaptive masks, which weigh every edge by how well its ends agree
in what the graph, or the intents, say of them. InfoNCE pulls the graph's view of each node to the other three.

What we changed:
- the adaptive masks pass no gradient on: they follow the vectors, and a step takes a fraction of the time;
- InfoNCE contrasts some of a step's users and items with each other, not all of them;
- a user is scored by the mean of their items' vectors, in training as later (see `item_vector_training` for that and
  for the loss, BPR with many negatives), and the penalties on the length of vectors and prototypes are gone: cosines
  know no lengths.

Shapes: U users, N items, E edges, D vector size, K intents, B interactions of a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import DCCFConfig
from offline.collaborative.bipartite_graph import BipartiteGraph
from offline.collaborative.item_vector_training import ItemVectorModel

_INIT_STD = 0.1
_EPSILON = 1e-6


@dataclass(frozen=True)
class _Nodes:
    """A vector for every user and every item; [U, D] and [N, D]."""

    users: Tensor
    items: Tensor

    def __add__(self, other: "_Nodes") -> "_Nodes":
        return _Nodes(self.users + other.users, self.items + other.items)


class DCCF(ItemVectorModel):
    """Vectors and intents of users and items, and the graph they travel along."""

    def __init__(self, graph: BipartiteGraph, config: DCCFConfig) -> None:
        super().__init__()

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).normal_(std=_INIT_STD))

        self.users, self.items = normal(graph.users, config.size), normal(graph.items, config.size)
        self.user_intents, self.item_intents = (
            normal(config.intents, config.size),
            normal(config.intents, config.size),
        )
        self._graph, self._config = graph, config
        self._adjacency = graph.normalized()

    def item_vectors(self) -> Tensor:
        return self._propagate()[0]

    def forward(self, users_B: Tensor, items_B: Tensor) -> tuple[Tensor, Tensor]:
        vectors, layers = self._propagate()
        nodes = self._config.contrast_nodes
        users, items = torch.unique(users_B), torch.unique(items_B)
        # Both are sorted by index: take some from everywhere, not the first.
        users, items = users[:: -(-len(users) // nodes)], items[:: -(-len(items) // nodes)]
        loss = vectors.new_zeros(())
        for graph_view, *others in layers:
            for other in others:
                loss = loss + self._contrast(graph_view.users, other.users, users)
                loss = loss + self._contrast(graph_view.items, other.items, items)
        return vectors, self._config.contrast_weight * loss

    def _propagate(self) -> tuple[Tensor, list[tuple[_Nodes, ...]]]:
        """The item vectors, and the four messages of each layer, that of the graph first."""
        nodes = _Nodes(self.users, self.items)
        total = nodes.items
        layers: list[tuple[_Nodes, ...]] = []
        for _ in range(self._config.layers):
            by_graph = _Nodes(self._adjacency.to_users(nodes.items), self._adjacency.to_items(nodes.users))
            by_intent = _Nodes(_mix(nodes.users, self.user_intents), _mix(nodes.items, self.item_intents))
            messages = (by_graph, by_intent, self._masked(by_graph, nodes), self._masked(by_intent, nodes))
            for message in messages:
                nodes = nodes + message
            total = total + nodes.items
            layers.append(messages)
        return total, layers

    def _masked(self, view: _Nodes, nodes: _Nodes) -> _Nodes:
        """Means of the neighbours, each weighed by how well the two agree in a view."""
        graph = self._graph
        with torch.no_grad():
            lengths_E = view.users.norm(dim=1)[graph.user_E] * view.items.norm(dim=1)[graph.item_E]
            cosines_E = graph.edge_products(view.users, view.items) / lengths_E.clamp(min=_EPSILON)
            agreement_E = (cosines_E + 1) / 2
            sums = graph.matrix(agreement_E)
            user_sums = sums.to_users(view.items.new_ones(graph.items, 1)).squeeze(1).clamp(min=_EPSILON)
            item_sums = sums.to_items(view.users.new_ones(graph.users, 1)).squeeze(1).clamp(min=_EPSILON)
        return _Nodes(
            graph.matrix(agreement_E / user_sums[graph.user_E]).to_users(nodes.items),
            graph.matrix(agreement_E / item_sums[graph.item_E]).to_items(nodes.users),
        )

    def _contrast(self, view: Tensor, other: Tensor, chosen: Tensor) -> Tensor:
        """InfoNCE of the chosen nodes between two views."""
        left = functional.normalize(functional.embedding(chosen, view), dim=-1)
        right = functional.normalize(functional.embedding(chosen, other), dim=-1)
        similarity = left @ right.T / self._config.contrast_temperature
        return functional.cross_entropy(similarity, torch.arange(len(chosen), device=chosen.device))


def _mix(vectors: Tensor, intents_KD: Tensor) -> Tensor:
    """The intents of each node, by how well they match its vector; [nodes, D]."""
    return (vectors @ intents_KD.T).softmax(-1) @ intents_KD
