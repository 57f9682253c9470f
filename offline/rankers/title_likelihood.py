"""What a ranker that names items is trained by: the likelihood of the right title.

Every row is asked about as a test is: the item that came next among others that the user does not have.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model_store.rankers.a_llmrec import MEAN, ALLMRecRanker
from model_store.rankers.ranker import RankRequest
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import validation_score
from offline.rankers.next_item_rows import NegativeItems, next_item_rows
from offline.rankers.ranking_data import JudgedSamples, RankingData


class TitleLikelihood:
    """Cross-entropy of the right title's tokens and its end.

    Args:
        ranker: writes the prompts.
        data, rows: what is asked.
        seed: of the other candidates.
    """

    def __init__(self, ranker: ALLMRecRanker, data: RankingData, rows: JudgedSamples, seed: int) -> None:
        self._ranker, self._data, self._rows = ranker, data, rows
        self._negatives = NegativeItems(data, seed)

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """The mean over the tokens of some rows."""
        ranker = self._ranker
        items = self._rows.items[rows]
        others = self._negatives.of(self._rows.users[rows], ranker.config.shown - 1)
        requests = [
            RankRequest(
                history=self._rows.history(int(row)),
                candidates=np.append(others[at], items[at]),
                user_key=int(self._data.user_keys[self._rows.users[row]]),
            )
            for at, row in enumerate(rows)
        ]
        asked = range(len(rows))
        scores_B = ranker.scores(requests, asked, items.tolist())
        lengths = [len(ranker.candidate_part(requests[at], at, int(items[at]))) for at in asked]
        if ranker.config.score == MEAN:
            scores_B = scores_B * scores_B.new_tensor(lengths)
        return -scores_B.sum() / sum(lengths)


def fit_titles(
    what: str,
    ranker: ALLMRecRanker,
    data: RankingData,
    positions: str,
    trained: list[Trained],
    config: FitConfig,
    seed: int,
    *,
    language_model: bool,
) -> dict[str, Any]:
    """Train parameters by the titles of what came next; returns what happened.

    Args:
        what: shown as progress.
        ranker: whose prompts are read.
        data: without labels.
        positions: of histories, `last` or `all`.
        trained: what is trained.
        config, seed: how.
        language_model: whether it is trained, and so uses its dropout.
    """
    rows = next_item_rows(data, positions)

    def training() -> None:
        ranker.train()
        if language_model:
            ranker.language_model.model.train()

    return fit(
        what,
        len(rows),
        TitleLikelihood(ranker, data, rows, seed),
        trained,
        config,
        seed,
        validate=lambda: validation_score(ranker.rank, data, config.validation_rows, seed),
        training=training,
    )
