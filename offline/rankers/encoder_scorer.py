"""Candidates by a collaborative encoder alone: what a ranker on top of it has to beat."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.rankers.ranker import RankRequest
from offline.rankers.evaluate_ranker import Scorer

_REQUESTS_A_PASS = 256


def encoder_scorer(encoder: CollaborativeEncoder) -> Scorer:
    """Candidates by the encoder's logits after the history; without a history all score alike."""

    def score(requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
        found = [np.zeros(len(request.candidates), dtype=np.float32) for request in requests]
        known = [row for row, request in enumerate(requests) if len(request.history)]
        for start in range(0, len(known), _REQUESTS_A_PASS):
            rows = known[start : start + _REQUESTS_A_PASS]
            logits = encoder.next_item_logits([requests[row].history for row in rows]).float().cpu().numpy()
            for row, own in zip(rows, logits, strict=True):
                found[row] = own[requests[row].candidates]
        return found

    return score
