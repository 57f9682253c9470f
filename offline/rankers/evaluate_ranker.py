"""Metrics of anything that scores candidates, on held-out samples or lists."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.rankers.ranker import RankRequest
from offline.progress import progress
from offline.rankers.judging_metrics import auc, first_place_ranks, uauc
from offline.rankers.ranking_data import JudgedSamples, Part, RankingData
from offline.ranking_metrics import ranking_metrics

Scorer = Callable[[Sequence[RankRequest]], list[NDArray[np.float32]]]
"""Scores of every request's candidates, as `Ranker.rank` gives them."""

_REQUESTS_AT_A_TIME = 256


def evaluate_ranker(
    scorer: Scorer, data: RankingData, part: Part, *, most: int | None = None, seed: int = 0, what: str = ""
) -> dict[str, float]:
    """AUC and UAUC of judged samples, and where there are lists how often the held-out item comes first.

    Args:
        scorer: what is measured.
        data, part: on what.
        most: measure so many samples, or lists, drawn by the seed; all by default.
        seed: of that.
        what: shown as progress; nothing is shown where it is empty.

    Returns:
        Labelled: auc, uauc, and auc_warm and auc_cold where there are such samples. Leave-one-out: hit@1, ndcg@10.
    """
    if data.protocol == "labelled":
        samples = data.samples[part]
        rows = _some(len(samples), most, seed)
        chosen = samples.select(rows)
        scores = judged_scores(scorer, data, chosen, what)
        metrics = {"auc": auc(scores, chosen.labels), "uauc": uauc(scores, chosen.labels, chosen.users)}
        for name, where in (("auc_warm", chosen.warm), ("auc_cold", ~chosen.warm)):
            if not np.isnan(own := auc(scores[where], chosen.labels[where])):
                metrics[name] = own
        return metrics
    lists = data.lists[part]
    rows = _some(len(lists), most, seed)
    found = np.stack(_scored(scorer, data.list_requests(lists, rows), what))
    metrics = ranking_metrics(first_place_ranks(found), (1, 10))
    return {"hit@1": metrics["recall@1"], "ndcg@10": metrics["ndcg@10"]}


def judged_scores(scorer: Scorer, data: RankingData, samples: JudgedSamples, what: str = "") -> NDArray[np.float32]:
    """The score of every sample; float32 [S]. Samples of like length go through the model together."""
    order = np.argsort(samples.ends - samples.starts, kind="stable")
    found = np.concatenate(_scored(scorer, data.sample_requests(samples, order), what) or [np.empty(0, np.float32)])
    scores = np.empty(len(samples), np.float32)
    scores[order] = found
    return scores


def _scored(scorer: Scorer, requests: Sequence[RankRequest], what: str) -> list[NDArray[np.float32]]:
    found: list[NDArray[np.float32]] = []
    if not what:
        return list(scorer(requests))
    with progress(what, len(requests), "requests") as advance:
        for start in range(0, len(requests), _REQUESTS_AT_A_TIME):
            some = requests[start : start + _REQUESTS_AT_A_TIME]
            found += scorer(some)
            advance(len(some))
    return found


def _some(count: int, most: int | None, seed: int) -> NDArray[np.int64]:
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])
