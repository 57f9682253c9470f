"""LightGCN: vectors of users and items, smoothed along the graph of who has what.

Follows He et al., "LightGCN" (arXiv:2002.02126): every layer replaces a vector by the degree-normalised sum of its
neighbours', without weights or activations, and the result is the mean over layers. What we changed: a user is scored
by the mean of their items' vectors, in training as later, and the user vectors only pass messages on (see
`item_vector_training` for that and for the loss).

Shapes: U users, N items, D vector size.
"""

import torch
from torch import Tensor, nn

from model_store.collaborative.configs import LightGCNConfig
from offline.collaborative.bipartite_graph import BipartiteGraph
from offline.collaborative.item_vector_training import ItemVectorModel

_INIT_STD = 0.1


class LightGCN(ItemVectorModel):
    """Vectors of users and items, and the graph they travel along."""

    def __init__(self, graph: BipartiteGraph, config: LightGCNConfig) -> None:
        super().__init__()
        self.users = nn.Parameter(torch.empty(graph.users, config.size).normal_(std=_INIT_STD))
        self.items = nn.Parameter(torch.empty(graph.items, config.size).normal_(std=_INIT_STD))
        self._adjacency = graph.normalized()
        self._layers = config.layers

    def item_vectors(self) -> Tensor:
        users: Tensor = self.users
        items: Tensor = self.items
        total = items
        for _ in range(self._layers):
            users, items = self._adjacency.to_users(items), self._adjacency.to_items(users)
            total = total + items
        return total / (self._layers + 1)
