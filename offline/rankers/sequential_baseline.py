"""SASRec beside rankers: trained on the same samples, scoring the same candidates.

On labelled samples its score is the product of the state after the history and the item's vector, trained by binary
cross-entropy, as in CoLLM's tables; on the others it is the next-item encoder of every other evaluation.

Shapes: B samples, T items of a history, D vector size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.collaborative.configs import SASRecConfig
from model_store.collaborative.encoder import pad
from model_store.collaborative.sasrec import SASRec
from model_store.rankers.ranker import RankRequest
from offline.collaborative.kinds import train_encoder
from offline.rankers.evaluate_ranker import Scorer
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import validation_score
from offline.rankers.ranking_data import RankingData

FIT = FitConfig(epochs=15, batch=256, at_once=256, learning_rate=1e-3, weight_decay=0.1, patience=3)


def train_sequential(
    data: RankingData, config: SASRecConfig, seed: int, device: torch.device | str = "cpu", fitting: FitConfig = FIT
) -> tuple[Scorer, dict[str, Any]]:
    """Train SASRec on a data set's training part; `fitting` is how, on labelled samples."""
    if data.split is not None:
        encoder, metrics = train_encoder(
            data.split.train, data.split.evaluation_cases("valid"), len(data.catalog), config, seed, device
        )
        assert isinstance(encoder, SASRec)
        return next_item_scorer(encoder), metrics
    torch.manual_seed(seed)
    model = SASRec(len(data.catalog), config).to(device)
    samples = data.samples["train"].with_history(1)

    def loss(rows: NDArray[np.int64]) -> Tensor:
        states_BD = _states(model, data.sample_requests(samples, rows))
        items_B = torch.from_numpy(samples.items[rows].astype(np.int64)).to(states_BD.device)
        labels_B = torch.from_numpy(samples.labels[rows].astype(np.float32)).to(states_BD.device)
        return functional.binary_cross_entropy_with_logits((states_BD * model.item_vectors(items_B)).sum(-1), labels_B)

    def validate() -> float:
        return validation_score(next_item_scorer(model), data, fitting.validation_rows, seed)

    fitted = fit(
        "SASRec",
        len(samples),
        loss,
        [Trained(model.parameters())],
        fitting,
        seed,
        validate=validate,
        training=model.train,
    )
    return next_item_scorer(model), fitted


def next_item_scorer(model: SASRec) -> Scorer:
    """Candidates by the state after the history; without a history all score alike."""

    @torch.inference_mode()
    def score(requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
        model.eval()
        found = [np.zeros(len(request.candidates), dtype=np.float32) for request in requests]
        known = [row for row, request in enumerate(requests) if len(request.history)]
        if known:
            states_BD = _states(model, [requests[row] for row in known])
            for row, state_D in zip(known, states_BD, strict=True):
                vectors = model.item_vectors(
                    torch.from_numpy(requests[row].candidates.astype(np.int64)).to(state_D.device)
                )
                found[row] = (vectors @ state_D).float().cpu().numpy()
        return found

    return score


def _states(model: SASRec, requests: Sequence[RankRequest]) -> Tensor:
    """The state after each history; none may be empty; [B, D]."""
    rows = [request.history[-model.config.max_length :] for request in requests]
    device = model.item_vectors.weight.device
    items_BT = torch.from_numpy(pad(rows).astype(np.int64)).to(device)
    lasts = torch.tensor([len(row) - 1 for row in rows], device=device)
    states_BTD: Tensor = model(items_BT)
    return states_BTD[torch.arange(len(rows), device=device), lasts]
