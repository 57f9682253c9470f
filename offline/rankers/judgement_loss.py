"""What a judging ranker is trained by: the likelihood of its answer.

Shapes: B samples, T tokens of the longest prompt, H hidden size, V token ids.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.rankers.judging_ranker import JudgingRanker
from model_store.rankers.soft_prompt import Slot
from offline.rankers.evaluate_ranker import Scorer, evaluate_ranker
from offline.rankers.ranking_data import JudgedSamples, RankingData

LossOn = Literal["answer", "prompt"]
MAIN_METRIC = {"labelled": "auc", "leave-one-out": "hit@1"}
"""Protocol -> what validations go by."""

_IGNORED = -100


class JudgementLoss:
    """Cross-entropy of the right answer, over the whole vocabulary.

    Args:
        ranker: writes the questions.
        data, samples: what is asked, and the right answers.
        loss_on: `answer`, or `prompt` for every word of the prompt too.
    """

    def __init__(self, ranker: JudgingRanker, data: RankingData, samples: JudgedSamples, loss_on: str) -> None:
        self._ranker, self._judgement = ranker, ranker.judgement
        self._data, self._samples, self._loss_on = data, samples, loss_on

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """The mean loss of some samples."""
        ranker, model = self._ranker, self._ranker.language_model
        requests = self._data.sample_requests(self._samples, rows)
        items = [int(request.candidates[0]) for request in requests]
        users, parts = ranker.whole_prompts(requests, range(len(rows)), items)
        hidden_BTH, _ = ranker.hidden_of(requests, users, parts)
        lengths = torch.tensor([len(u) + len(p) for u, p in zip(users, parts, strict=True)], device=hidden_BTH.device)
        every = torch.arange(len(rows), device=hidden_BTH.device)
        answers = self._judgement.answers[torch.from_numpy(self._samples.labels[rows].astype(np.int64))]
        if self._loss_on == "answer":
            return functional.cross_entropy(model.logits(hidden_BTH[every, lengths - 1]), answers)
        targets_BT = torch.full(hidden_BTH.shape[:2], _IGNORED, device=hidden_BTH.device)
        for row, (user, part) in enumerate(zip(users, parts, strict=True)):
            following = [_IGNORED if isinstance(token, Slot) else token for token in (user + part).parts[1:]]
            targets_BT[row, : len(following)] = torch.tensor(following, device=hidden_BTH.device)
        targets_BT[every, lengths - 1] = answers
        return functional.cross_entropy(model.logits(hidden_BTH).flatten(0, 1), targets_BT.flatten())


def validation_score(scorer: Scorer, data: RankingData, most: int, seed: int) -> float:
    """The metric that validations go by, on so many of the validation part's samples or lists."""
    return evaluate_ranker(scorer, data, "valid", most=most, seed=seed)[MAIN_METRIC[data.protocol]]
