"""Training of NCF: an item against drawn ones, from the user's other items.

What we changed of the paper: a softmax over the sample in place of a binary cross-entropy of each pair, as for every
encoder without an order of its own (see `item_vector_training`).

Shapes: B interactions, M negatives, D vector size.
"""

import torch
from torch.nn import functional

from model_store.collaborative.configs import NCFConfig
from model_store.collaborative.ncf import NCF
from offline.collaborative.bipartite_graph import BipartiteGraph
from offline.collaborative.item_vector_training import draw_negatives, edge_batches, edges_with_others, owned
from offline.collaborative.validation import BestEpoch, validation_metrics
from offline.leave_one_out import EvaluationCases
from offline.progress import progress


def train_ncf(
    graph: BipartiteGraph, validation: EvaluationCases, config: NCFConfig, seed: int
) -> tuple[NCF, dict[str, float]]:
    """Train on a graph's edges; returns the epoch with the best NDCG@10 on `validation`, and its metrics."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    device = graph.user_E.device
    model = NCF(graph.items, config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    edges = edges_with_others(graph)
    steps = -(-len(edges) // config.pairs_per_batch)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.epochs * steps))
    history_sums = graph.matrix(torch.ones(len(graph.user_E), device=device))
    best = BestEpoch()
    with progress("collaborative encoder", config.epochs, "epochs") as advance:
        for epoch in range(1, config.epochs + 1):
            model.train()
            for users_B, items_B in edge_batches(graph, edges, config.pairs_per_batch, generator):
                vectors_ND = model.vectors()
                own_BD = functional.embedding(items_B, vectors_ND)
                sums_BD = functional.embedding(users_B, history_sums.to_users(vectors_ND))
                states_BD = (sums_BD - own_BD) / (graph.user_degrees[users_B] - 1)[:, None]
                negatives_M = draw_negatives(graph.items, config.negatives, generator).to(device)
                positive_B = model.pair_scores(states_BD, own_BD)
                negative_BM = model.scores_of(states_BD, vectors_ND[negatives_M])
                negative_BM = negative_BM.masked_fill(owned(users_B, negatives_M, graph), -torch.inf)
                loss = functional.softplus(negative_BM.logsumexp(1) - positive_B).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
            if epoch % config.validate_every == 0 or epoch == config.epochs:
                best.offer(model, validation_metrics(model, validation, config.validation_users, seed))
            advance(1, str(best))
    best.restore(model)
    return model.eval(), best.metrics
