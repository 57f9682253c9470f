"""Training of DIN: every item of a history but its first, told from up to 19 items before it, among drawn negatives.

The loss is a softmax over the item and the negatives with the log-q correction of EAGER-LLM: of every logit the log of
the probability with which that item is drawn is taken off. Negatives are uniform, so that the correction is the same
for all of them and changes nothing; it is there for draws that are not. The learning rate is that paper's, with the
warm-up a share of all steps in place of 5000: smaller shops have fewer. What we changed beside: the item itself is
never drawn as its own negative.

Shapes: B prefixes, W places of a window, J candidates (the target first), S prefixes of all histories.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.collaborative.configs import DINConfig
from model_store.collaborative.din import DIN, HISTORY
from model_store.collaborative.encoder import PADDING
from offline.collaborative.validation import BestEpoch, validation_metrics
from offline.leave_one_out import EvaluationCases, Histories
from offline.progress import progress

_LOWEST_RATE = 1e-3
"""Of the learning rate; nothing falls below it."""


def train_din(
    train: Histories,
    validation: EvaluationCases,
    items: int,
    config: DINConfig,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[DIN, dict[str, float]]:
    """Train on `train`, keep the epoch with the best NDCG@10 on `validation`; returns it and its metrics."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = DIN(items, config).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, amsgrad=True, fused=True)
    places_S, begins_S = prefixes(train)
    steps = config.epochs * -(-len(places_S) // config.batch)
    warmup = max(1, round(config.warmup * steps))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, warmup))
    best = BestEpoch()
    with progress("collaborative encoder", config.epochs, "epochs") as advance:
        for _ in range(config.epochs):
            model.train()
            order = rng.permutation(len(places_S))
            for start in range(0, len(order), config.batch):
                batch = order[start : start + config.batch]
                targets_B = train.items[places_S[batch]]
                candidates_BJ = with_negatives(targets_B, items, config.negatives, rng)
                windows_BW = windows_before(train.items, places_S[batch], begins_S[batch])
                scores_BJ = model.candidate_scores(
                    torch.from_numpy(windows_BW).to(device), torch.from_numpy(candidates_BJ).to(device)
                )
                loss = sampled_softmax(scores_BJ, torch.full_like(scores_BJ, -math.log(items)))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
            best.offer(model, validation_metrics(model, validation, config.validation_users, seed))
            advance(1, str(best))
    best.restore(model)
    return model.eval(), best.metrics


def prefixes(histories: Histories) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places, in the items of all histories, of those that others come before, and where their histories begin; [S]."""
    begins = np.repeat(histories.offsets[:-1], np.diff(histories.offsets))
    places = np.flatnonzero(np.arange(len(begins)) > begins)
    return places, begins[places]


def windows_before(
    items: NDArray[np.int32], places_B: NDArray[np.int64], begins_B: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The newest items of the same history before each place, padded on the left; int64 [B, W]."""
    sources_BW = places_B[:, None] + np.arange(-HISTORY, 0)
    return np.where(sources_BW >= begins_B[:, None], items[sources_BW.clip(min=0)], PADDING).astype(np.int64)


def with_negatives(
    targets_B: NDArray[np.int32], items: int, negatives: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Each target, then items drawn from all the others alike; int64 [B, 1 + negatives]."""
    drawn = rng.integers(items - 1, size=(len(targets_B), negatives))
    return np.column_stack([targets_B, drawn + (drawn >= targets_B[:, None])]).astype(np.int64)


def sampled_softmax(scores_BJ: Tensor, log_q_BJ: Tensor) -> Tensor:
    """Cross-entropy of the first candidate among all, each logit less the log of its chance to be drawn; scalar."""
    corrected_BJ = scores_BJ - log_q_BJ
    return (corrected_BJ.logsumexp(1) - corrected_BJ[:, 0]).mean()


def rate(step: int, warmup: int) -> float:
    """What the learning rate is multiplied by at a step, counted from 0."""
    return max(_LOWEST_RATE, min((step + 1) / warmup, math.exp((warmup - step - 1) / (3 * warmup))))
