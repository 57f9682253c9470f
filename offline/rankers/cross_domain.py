"""A ranker of one data set on the lists of another, none of whose items or users it has met."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.rankers.ranker import Ranker, RankRequest
from offline.rankers.evaluate_ranker import Scorer


def cross_domain_scorer(ranker: Ranker, other: Catalog, name: str) -> Scorer:
    """Candidates of another catalogue; to the ranker all of it is new (see `Ranker.adopt`), which changes the ranker.

    Args:
        ranker: trained on its own catalogue.
        other: the items of the requests.
        name: of the other data set, put before its item ids: the same id may mean another item.
    """
    own = ranker.catalog
    ranker.adopt(own.joined(dataclasses.replace(other, item_ids=tuple(f"{name}/{item}" for item in other.item_ids))))
    first = np.int32(len(own))

    def score(requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
        return ranker.rank(
            [
                RankRequest(history=request.history + first, candidates=request.candidates + first)
                for request in requests
            ]
        )

    return score
