"""Parts of a test that say where a ranker is strong: items and users with little behind them.

Shapes: n lists, N items, U users.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.errors import TesseraError
from offline.progress import progress
from offline.rankers.evaluate_ranker import Scorer
from offline.rankers.judging_metrics import first_place_ranks
from offline.rankers.ranking_data import Part, RankingData
from offline.ranking_metrics import ranking_metrics

ALL, WARM_ITEMS, COLD_ITEMS, COLD_USERS = "all", "warm-items", "cold-items", "cold-users"
GROUPS = (ALL, WARM_ITEMS, COLD_ITEMS, COLD_USERS)
COLD_SHARE = 0.35
"""Of the items: those most often met in training are warm, as many of those least often met are cold."""
COLD_USER_EVENTS = 3
"""Events of a cold user, the held-out two among them."""

_REQUESTS_AT_A_TIME = 256


def group_rows(
    data: RankingData,
    part: Part,
    *,
    wanted: Sequence[str] = (),
    cold_share: float = COLD_SHARE,
    cold_user_events: int = COLD_USER_EVENTS,
) -> dict[str, NDArray[np.int64]]:
    """The lists of each group, by number.

    Args:
        data: without labels.
        part: a held-out one.
        wanted: names from `GROUPS`, none of which may be empty; by default all that have a list.
        cold_share: of the items, 0 to 0.5. Of items met equally often those that come first in the catalogue are the
            colder ones.
        cold_user_events: users with exactly so many events are cold.

    Raises:
        TesseraError: the data has labels, or nothing is in a group that is asked for.
    """
    if data.split is None:
        raise TesseraError(f"{data.dataset.name}: has a label column; groups are of lists of 20 candidates")
    met_N = np.bincount(data.split.train.items, minlength=len(data.catalog))
    coldest_first = np.argsort(met_N, kind="stable")
    border = round(cold_share * len(met_N))
    targets = data.lists[part].candidates[:, 0]
    events_U = np.diff(data.dataset.offsets)
    inside = {
        ALL: np.ones(len(targets), np.bool_),
        WARM_ITEMS: np.isin(targets, coldest_first[len(met_N) - border :]),
        COLD_ITEMS: np.isin(targets, coldest_first[:border]),
        COLD_USERS: events_U[data.lists[part].users] == cold_user_events,
    }
    found = {name: np.flatnonzero(rows) for name, rows in inside.items() if rows.any()}
    for name in wanted:
        if name not in found:
            why = ""
            if name == COLD_USERS:
                fewest = int(events_U[data.lists[part].users].min(initial=int(events_U.max())))
                why = f" with {cold_user_events} events; the fewest that a user has are {fewest}"
            raise TesseraError(f"{data.dataset.name}: the {part} part has no list of {name}{why}")
    return {name: rows for name, rows in found.items() if not wanted or name in wanted}


def evaluate_groups(
    scorer: Scorer, data: RankingData, part: Part, groups: dict[str, NDArray[np.int64]], what: str
) -> dict[str, dict[str, float]]:
    """Hit@1 and NDCG@10 of each group, and how many lists it has; each list is scored once."""
    rows = np.unique(np.concatenate(list(groups.values())))
    requests = data.list_requests(data.lists[part], rows)
    scores: list[NDArray[np.float32]] = []
    with progress(what, len(requests), "lists") as advance:
        for start in range(0, len(requests), _REQUESTS_AT_A_TIME):
            scores += scorer(requests[start : start + _REQUESTS_AT_A_TIME])
            advance(min(_REQUESTS_AT_A_TIME, len(requests) - start))
    ranks = first_place_ranks(np.stack(scores))
    found = {}
    for name, own in groups.items():
        metrics = ranking_metrics(ranks[np.searchsorted(rows, own)], (1, 10))
        found[name] = {"hit@1": metrics["recall@1"], "ndcg@10": metrics["ndcg@10"], "lists": float(len(own))}
    return found
