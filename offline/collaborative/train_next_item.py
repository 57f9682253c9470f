"""Training of the encoders that read a history in its order, with cross-entropy over the whole catalogue.

Full softmax in place of the one sampled negative of SASRec's paper is the largest single gain (see Petrov and
Macdonald, arXiv:2308.07192).

Shapes: B sequences, T items, N items, P supervised positions.
"""

import numpy as np
import torch
from torch.nn import functional

from model_store.collaborative.configs import SequentialConfig
from model_store.collaborative.encoder import PADDING, CollaborativeEncoder
from offline.collaborative.validation import BestEpoch, validation_metrics
from offline.leave_one_out import EvaluationCases, Histories
from offline.progress import progress
from offline.training_batches import batches, batches_per_epoch, leave_out, windows


def train_next_item(
    model: CollaborativeEncoder, train: Histories, validation: EvaluationCases, config: SequentialConfig, seed: int
) -> dict[str, float]:
    """Train in place on `train`, keep the epoch with the best NDCG@10 on `validation`; returns its metrics."""
    rng = np.random.default_rng(seed)
    device = model.vectors().device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
    )
    pieces = windows(train, config.max_length + 1)
    steps_per_epoch = batches_per_epoch(pieces, config.items_per_batch, config.item_dropout)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * (steps_per_epoch + 2))
    best = BestEpoch()
    with progress("collaborative encoder", config.epochs, "epochs") as advance:
        for epoch in range(config.epochs):
            model.train()
            for batch in batches(leave_out(pieces, config.item_dropout, rng), config.items_per_batch, rng):
                items_BT = torch.from_numpy(batch.astype(np.int64)).to(device)
                targets_BT = items_BT[:, 1:]
                real_BT = targets_BT != PADDING
                logits_PN = model.logits_after(items_BT[:, :-1], real_BT)
                loss = functional.cross_entropy(logits_PN, targets_BT[real_BT])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
            # Before the last quarter of a cosine schedule no epoch has been the best one.
            if epoch + 1 >= config.epochs * 3 // 4:
                best.offer(model, validation_metrics(model, validation, config.validation_users, seed))
            advance(1, str(best))
    best.restore(model)
    return best.metrics
