"""Choosing the best epoch of a collaborative encoder: NDCG@10 on validation items, with seen items excluded."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from model_store.collaborative.encoder import CollaborativeEncoder
from offline.held_out_ranking import scored_ranks
from offline.leave_one_out import EvaluationCases
from offline.ranking_metrics import ranking_metrics


@dataclass
class BestEpoch:
    """The weights and metrics of the best epoch so far."""

    ndcg: float = -1.0
    metrics: dict[str, float] = field(default_factory=dict)
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, model: nn.Module, metrics: dict[str, float]) -> None:
        """Keep a copy of the weights if the metrics are better than those kept."""
        if metrics["ndcg@10"] > self.ndcg:
            self.ndcg, self.metrics = metrics["ndcg@10"], metrics
            self._weights = {name: value.clone() for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Put the weights that were kept into a model."""
        model.load_state_dict(self._weights)

    def __str__(self) -> str:
        return f"validation NDCG@10 {max(self.ndcg, 0):.4f}"


def validation_metrics(
    encoder: CollaborativeEncoder, cases: EvaluationCases, users: int, seed: int
) -> dict[str, float]:
    """Metrics with seen items excluded, over at most `users` cases drawn by `seed`."""
    chosen = np.random.default_rng(seed).permutation(len(cases.targets))[:users]
    histories = [cases.histories[int(row)] for row in chosen]
    ranks = scored_ranks(
        lambda some: encoder.next_item_logits(some).cpu().numpy(), histories, cases.targets[chosen], seen_excluded=True
    )
    return ranking_metrics(ranks)
