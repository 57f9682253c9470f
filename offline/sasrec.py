"""Collaborative item vectors: SASRec trained with cross-entropy over the whole catalogue.

Follows Kang and McAuley, "Self-Attentive Sequential Recommendation" (arXiv:1808.09781). What we changed: full-softmax
cross-entropy in place of one sampled negative (the largest single gain, see Petrov and Macdonald, arXiv:2308.07192),
pre-norm blocks with GELU, and positions counted from the newest item, so that short histories look like the end of
long ones.

Shapes: B sequences, T items, D vector size, N items, P supervised positions.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from offline.leave_one_out import EvaluationCases, Histories
from offline.progress import progress
from offline.ranking_metrics import ranking_metrics, ranks_in_scores
from offline.training_batches import PADDING, batches, pad, windows

_INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class SASRecConfig:
    """Settings of the collaborative encoder."""

    size: int = 64
    """D, the length of an item vector."""
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    max_length: int = 50
    """Items of a history it reads."""
    epochs: int = 20
    items_per_batch: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    validation_users: int = 5000
    """Users sampled to choose the best epoch by NDCG@10."""


class SASRec(nn.Module):
    """Scores the next item of a history against every item."""

    def __init__(self, items: int, config: SASRecConfig) -> None:
        super().__init__()
        self.config = config
        self.item_vectors = nn.Embedding(items, config.size)
        self.positions = nn.Embedding(config.max_length, config.size)
        layer = nn.TransformerEncoderLayer(
            config.size,
            config.heads,
            4 * config.size,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.size)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.item_vectors.weight, std=_INIT_STD)
        nn.init.normal_(self.positions.weight, std=_INIT_STD)

    def forward(self, items_BT: Tensor) -> Tensor:
        """State after each item; `items_BT` is padded on the right with -1. Returns [B, T, D]."""
        length = items_BT.shape[1]
        real_BT = items_BT != PADDING
        newest_first_BT = (real_BT.sum(1, keepdim=True) - 1 - torch.arange(length, device=items_BT.device)).clamp(min=0)
        states = self.item_vectors(items_BT.clamp(min=0)) * math.sqrt(self.config.size)
        states = self.dropout(states + self.positions(newest_first_BT))
        causal = nn.Transformer.generate_square_subsequent_mask(length, device=items_BT.device)
        return self.norm(self.blocks(states, mask=causal, is_causal=True))  # type: ignore[no-any-return]

    def scores(self, states: Tensor) -> Tensor:
        """Logits of every item; [..., N]."""
        return states @ self.item_vectors.weight.T

    @torch.inference_mode()
    def next_item_logits(self, histories: Histories | list[NDArray[np.int32]]) -> Tensor:
        """Logits of every item after each whole history; [len(histories), N]."""
        self.eval()
        newest = [histories[i][-self.config.max_length :] for i in range(len(histories))]
        items_BT = torch.from_numpy(pad(newest).astype(np.int64))
        last = torch.tensor([len(row) - 1 for row in newest])
        return self.scores(self(items_BT)[torch.arange(len(newest)), last])


def train_sasrec(
    train: Histories, validation: EvaluationCases, items: int, config: SASRecConfig, seed: int
) -> tuple[SASRec, dict[str, float]]:
    """Train on `train`, keep the epoch with the best NDCG@10 on `validation`; returns it and its metrics."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = SASRec(items, config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
    )
    pieces = windows(train, config.max_length + 1)
    steps_per_epoch = sum(1 for _ in batches(pieces, config.items_per_batch, np.random.default_rng(seed)))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * (steps_per_epoch + 2))
    best: tuple[float, dict[str, Tensor], dict[str, float]] = (-1.0, {}, {})
    with progress("collaborative encoder", config.epochs, "epochs") as advance:
        for epoch in range(config.epochs):
            model.train()
            for batch in batches(pieces, config.items_per_batch, rng):
                items_BT = torch.from_numpy(batch.astype(np.int64))
                targets_BT = items_BT[:, 1:]
                real_BT = targets_BT != PADDING
                loss = functional.cross_entropy(model.scores(model(items_BT[:, :-1])[real_BT]), targets_BT[real_BT])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
            # Before the last quarter of a cosine schedule no epoch has been the best one.
            if epoch + 1 >= config.epochs * 3 // 4:
                metrics = evaluate_sasrec(model, validation, config.validation_users, seed)
                if metrics["ndcg@10"] > best[0]:
                    state = {name: value.clone() for name, value in model.state_dict().items()}
                    best = (metrics["ndcg@10"], state, metrics)
            advance(1, f"validation NDCG@10 {max(best[0], 0):.4f}")
    model.load_state_dict(best[1])
    return model.eval(), best[2]


def evaluate_sasrec(model: SASRec, cases: EvaluationCases, users: int, seed: int) -> dict[str, float]:
    """Metrics with seen items excluded, over at most `users` cases drawn by `seed`."""
    chosen = np.random.default_rng(seed).permutation(len(cases.targets))[:users]
    ranks = []
    for start in range(0, len(chosen), 512):
        rows = chosen[start : start + 512]
        histories = [cases.histories[int(row)] for row in rows]
        logits = model.next_item_logits(histories).numpy()
        exclude_seen(logits, histories)
        ranks.append(ranks_in_scores(logits, cases.targets[rows]))
    return ranking_metrics(np.concatenate(ranks) if ranks else np.empty(0, np.int64))


def exclude_seen(scores_UN: NDArray[np.floating], histories: list[NDArray[np.int32]]) -> None:
    """Set the scores of the items of each history to -inf, in place."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    scores_UN[rows, np.concatenate(histories)] = -np.inf
