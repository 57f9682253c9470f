"""Lists of a generator in the order of a version's ranker.

The generator finds the candidates; the ranker only orders them. Scores of rankers have a scale of their own, and so
have the generator's: where both have a say, each is standardised over the candidates of a user first.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.decoders.protocol import Decoded
from model_store.default_device import default_device
from model_store.errors import TesseraError
from model_store.manifest import RankerRecord
from model_store.rankers.ranker import Ranker, RankRequest
from model_store.rankers.ranker_files import load_ranker
from model_store.rankers.user_keys import user_key


def ranker_record(bundle: Bundle) -> RankerRecord:
    """What is known of a version's ranker.

    Raises:
        TesseraError: it has none.
    """
    if bundle.manifest.ranker is None:
        raise TesseraError(
            f"version {bundle.version} has no ranker; `tessera rank train` publishes one with it, "
            "--version names another, and without --rank the generator's order stays"
        )
    return bundle.manifest.ranker


class Reranker:
    """Reorders candidates.

    Args:
        ranker: scores them.
        weight: its share of the order, 0 to 1; the rest is the generator's.
    """

    def __init__(self, ranker: Ranker, weight: float = 1.0) -> None:
        self._ranker, self._weight = ranker, weight

    @classmethod
    def of_version(cls, bundle: Bundle, weight: float = 1.0) -> "Reranker":
        """With the ranker of a version, on a GPU where there is one.

        Raises:
            TesseraError: it has none, or one that cannot be loaded.
        """
        ranker_record(bundle)
        assert bundle.ranker_path is not None
        return cls(load_ranker(bundle.ranker_path, bundle.catalog, default_device()), weight)

    def reorder(
        self,
        users: Sequence[str],
        histories: Sequence[NDArray[np.int32]],
        found: Sequence[Sequence[Decoded]],
        keep: int,
    ) -> list[list[Decoded]]:
        """The first `keep` candidates of each user in the new order, each with the score it had.

        Args:
            users: ids of B users.
            histories: theirs, item indices, oldest first; int32 [H] each.
            found: their candidates, best first.
            keep: how many are left.

        Raises:
            TesseraError: the ranker's scores are no numbers.
        """
        scores = self.scores(users, histories, found)
        return [reordered(items, scores_K, self._weight)[:keep] for items, scores_K in zip(found, scores, strict=True)]

    def scores(
        self, users: Sequence[str], histories: Sequence[NDArray[np.int32]], found: Sequence[Sequence[Decoded]]
    ) -> list[NDArray[np.float32]]:
        """The ranker's score of every candidate; float32 [K] for each user. See `reorder`.

        Raises:
            TesseraError: they are no numbers.
        """
        scores = self._ranker.rank(
            [
                RankRequest(
                    history=history,
                    candidates=np.array([one.item for one in items], dtype=np.int32),
                    user_key=user_key(user),
                )
                for user, history, items in zip(users, histories, found, strict=True)
            ]
        )
        if not all(np.isfinite(scores_K).all() for scores_K in scores):
            kind = self._ranker.kind
            raise TesseraError(f"the {kind} ranker gave scores that are no numbers; its weights may hold NaN")
        return scores


def reordered(items: Sequence[Decoded], scores_K: NDArray[np.float32], weight: float = 1.0) -> list[Decoded]:
    """Candidates in a ranker's order; those it finds alike stay as they were.

    Args:
        items: best first, with the generator's scores.
        scores_K: the ranker's.
        weight: the ranker's share: orders by weight * z(ranker) + (1 - weight) * z(generator), where z takes the mean
            of the candidates away and divides by their standard deviation.
    """
    generator_K = np.array([item.score for item in items], dtype=np.float64)
    mixed_K = weight * _standardised(scores_K.astype(np.float64)) + (1 - weight) * _standardised(generator_K)
    return [items[at] for at in np.argsort(-mixed_K, kind="stable").tolist()]


def _standardised(scores_K: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = scores_K.std() if len(scores_K) else 0.0
    return (scores_K - scores_K.mean()) / spread if spread > 0 else np.zeros_like(scores_K)
