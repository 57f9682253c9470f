"""The training that every encoder without an order of its own shares.

A step takes interactions of a user and an item, and scores the item from the user's *other* items exactly as histories
are scored later (see `running_mean`): against negatives drawn from the whole catalogue, none of them an item of that
user. With one negative the loss is BPR's (arXiv:1205.2618), with more a softmax over the sample, which learns faster
and ranks better (arXiv:2201.02327).

Shapes: B interactions, M negatives, U users, N items, D vector size.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import RunningMeanConfig
from model_store.collaborative.running_mean import RunningMeanEncoder, logits
from offline.collaborative.bipartite_graph import BipartiteGraph
from offline.collaborative.validation import BestEpoch, validation_metrics
from offline.leave_one_out import EvaluationCases
from offline.progress import progress


class ItemVectorModel(nn.Module, ABC):
    """What makes item vectors while it is trained; only the vectors are kept."""

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """[N, D]."""

    def forward(self, users_B: Tensor, items_B: Tensor) -> tuple[Tensor, Tensor]:
        """The item vectors, and what a step on these interactions costs beside their ranking."""
        vectors = self.item_vectors()
        return vectors, vectors.new_zeros(())


def train_item_vectors(
    model: ItemVectorModel,
    graph: BipartiteGraph,
    validation: EvaluationCases,
    config: RunningMeanConfig,
    seed: int,
) -> tuple[RunningMeanEncoder, dict[str, float]]:
    """Train on the edges of a graph, keep the epoch with the best NDCG@10 on `validation`.

    Args:
        model: trained in place, on the graph's device.
        graph: training interactions alone.
        validation: what to choose the epoch by.
        config: settings.
        seed: of the order of interactions, of negatives and of validation users.

    Returns:
        The encoder, and its metrics.
    """
    generator = torch.Generator().manual_seed(seed)
    device = graph.user_E.device
    encoder = RunningMeanEncoder(graph.items, config).to(device).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    edges = edges_with_others(graph)
    batches = -(-len(edges) // config.pairs_per_batch)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.epochs * batches))
    history_sums = graph.matrix(torch.ones(len(graph.user_E), device=device))
    best = BestEpoch()
    with progress("collaborative encoder", config.epochs, "epochs") as advance:
        for epoch in range(1, config.epochs + 1):
            model.train()
            for users_B, items_B in edge_batches(graph, edges, config.pairs_per_batch, generator):
                vectors, own_loss = model(users_B, items_B)
                others = functional.embedding(users_B, history_sums.to_users(vectors)) - functional.embedding(
                    items_B, vectors
                )
                states = functional.normalize(others, dim=-1)
                negatives_M = draw_negatives(graph.items, config.negatives, generator).to(device)
                loss = own_loss + ranking_loss(states, vectors, users_B, items_B, negatives_M, graph, config)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                scheduler.step()
            if epoch % config.validate_every == 0 or epoch == config.epochs:
                with torch.no_grad():
                    encoder.item_vectors.copy_(model.eval().item_vectors())
                best.offer(encoder, validation_metrics(encoder, validation, config.validation_users, seed))
            advance(1, str(best))
    best.restore(encoder)
    return encoder, best.metrics


def edges_with_others(graph: BipartiteGraph) -> Tensor:
    """The interactions to train on: whoever has a single item leaves nothing to predict it from; int64 [edges]."""
    return (graph.user_degrees[graph.user_E] > 1).nonzero().squeeze(1)


def edge_batches(
    graph: BipartiteGraph, edges: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of interactions in an order of its own: the users of each batch and their items; int64 [B] each."""
    shuffled = edges[torch.randperm(len(edges), generator=generator).to(edges.device)]
    for start in range(0, len(edges), size):
        batch = shuffled[start : start + size]
        yield graph.user_E[batch], graph.item_E[batch]


def draw_negatives(items: int, count: int, generator: torch.Generator) -> Tensor:
    """Distinct items of the catalogue, all if there are no more; int64 [M]."""
    return torch.randperm(items, generator=generator)[:count]


def owned(users_B: Tensor, items_M: Tensor, graph: BipartiteGraph) -> Tensor:
    """Whether each user has each item, which must be distinct; bool [B, M]."""
    place_N = torch.full((graph.items,), -1, device=items_M.device)
    place_N[items_M] = torch.arange(len(items_M), device=items_M.device)
    counts_B = graph.user_degrees[users_B]
    rows = torch.arange(len(users_B), device=users_B.device).repeat_interleave(counts_B)
    first_edge = graph.user_offsets[users_B] - (counts_B.cumsum(0) - counts_B)
    places = place_N[graph.item_E[torch.arange(len(rows), device=rows.device) + first_edge[rows]]]
    owned_BM = torch.zeros(len(users_B), len(items_M), dtype=torch.bool, device=users_B.device)
    owned_BM[rows[places >= 0], places[places >= 0]] = True
    return owned_BM


def ranking_loss(
    states_BD: Tensor,
    vectors_ND: Tensor,
    users_B: Tensor,
    items_B: Tensor,
    negatives_M: Tensor,
    graph: BipartiteGraph,
    config: RunningMeanConfig,
) -> Tensor:
    unit_ND = functional.normalize(vectors_ND, dim=-1)
    positive_B = (states_BD * functional.embedding(items_B, unit_ND)).sum(-1) / config.temperature
    negative_BM = logits(states_BD, functional.embedding(negatives_M, vectors_ND), config.temperature)
    negative_BM = negative_BM.masked_fill(owned(users_B, negatives_M, graph), -torch.inf)
    return functional.softplus(negative_BM.logsumexp(1) - positive_B).mean()
