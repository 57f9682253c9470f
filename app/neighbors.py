"""Items near other items in the space of the joint item vectors."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.prefix_quota import PrefixQuota
from model_store.prefix_trie import EligibleItems

RECENT_ITEMS = 20
"""How many of a history's newest items the query is made of."""
HALF_LIFE_ITEMS = 5.0
"""An item this many events older weighs half as much."""

_EXACT_BELOW = 20_000
"""With so few eligible items, scoring them all is quicker than searching and filtering."""
_CAPPED_LOOK = 10
"""Under a cap so many times more are searched: the nearest items share prefixes more than others do."""


class Neighbors:
    """Nearest items by inner product of unit vectors, filtered. Safe to use from several threads.

    Args:
        embeddings: float32 [N, D], unit length.
        index_path: the FAISS index over them; read at the first search that needs it.
    """

    def __init__(self, embeddings: NDArray[np.float32], index_path: Path) -> None:
        self._embeddings = embeddings
        self._index_path = index_path

    def prepare(self) -> None:
        """Read the index, which the first search would wait for."""
        if len(self._embeddings) > _EXACT_BELOW:
            _ = self._index

    def query_of(self, history: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """One vector for a history: the mean of its newest items, the newer the heavier; float32 [D], unit length.

        Args:
            history: item indices, oldest first, at least one.
        """
        recent = np.asarray(history[-RECENT_ITEMS:])
        weights = np.exp2(-np.arange(len(recent) - 1, -1, -1, dtype=np.float32) / HALF_LIFE_ITEMS)
        mean = weights @ np.asarray(self._embeddings[recent], dtype=np.float32)
        # Opposite vectors can cancel out; any order is as good as another then.
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), dtype=np.float32)

    def search(
        self,
        query: NDArray[np.float32],
        n: int,
        eligible: EligibleItems,
        hidden: frozenset[int] | set[int],
        quota: PrefixQuota | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `n` nearest items that pass, or all that do when there are fewer.

        Args:
            query: float32 [D].
            n: items wanted.
            eligible: the catalogue-wide filter.
            hidden: item indices that must not be shown.
            quota: the room of each prefix, where there is a cap; it is looked at, not taken.

        Returns:
            Item indices, nearest first, and cosine similarities; int32 [K] and float32 [K], K <= n.
        """
        if eligible.total > _EXACT_BELOW:
            # Enough that a filter independent of the direction leaves n; what depends on it is searched exactly below.
            looks = 2 if quota is None else 2 * _CAPPED_LOOK
            wanted = int(looks * (n + len(hidden)) * len(self._embeddings) / eligible.total) + 1
            similarities, found = self._index.search(query[None, :], min(wanted, len(self._embeddings)))
            keep = np.flatnonzero(_passing(found[0], eligible.mask, hidden))
            if quota is not None:
                keep = keep[quota.fitting(found[0][keep])]
            if len(keep) >= n:
                return found[0][keep[:n]].astype(np.int32), similarities[0][keep[:n]].astype(np.float32)
        return self._exact(query, n, np.flatnonzero(eligible.mask), hidden, quota)

    def in_order(
        self, query: NDArray[np.float32], items: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """A few given items, nearest first, and cosine similarities."""
        return self._exact(query, len(items), items, frozenset(), None)

    def _exact(
        self,
        query: NDArray[np.float32],
        n: int,
        items: NDArray[np.integer],
        hidden: frozenset[int] | set[int],
        quota: PrefixQuota | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        similarities = np.asarray(self._embeddings[items] @ query, dtype=np.float32)
        # Under a cap there is no telling how far down the last of them is.
        looked_at = min(n + len(hidden), len(items)) if quota is None else len(items)
        if looked_at < len(items):
            nearest = np.argpartition(-similarities, looked_at - 1)[:looked_at] if looked_at else np.empty(0, np.intp)
            items, similarities = items[nearest], similarities[nearest]
        order = np.argsort(-similarities, kind="stable")
        items, similarities = items[order], similarities[order]
        keep = np.flatnonzero([item not in hidden for item in items.tolist()])
        if quota is not None:
            keep = keep[quota.fitting(items[keep])]
        return items[keep[:n]].astype(np.int32), similarities[keep[:n]]

    @cached_property
    def _index(self) -> Any:
        # A third of a second to import, and needed by few requests, all of which can wait for it.
        import faiss

        # One search is too short to share among threads; workers are how this service uses several cores.
        faiss.omp_set_num_threads(1)
        return faiss.read_index(str(self._index_path))


def _passing(found: NDArray[np.int64], mask: NDArray[np.bool_], hidden: frozenset[int] | set[int]) -> NDArray[np.bool_]:
    # An index answers -1 where it has found nothing more.
    return np.array([item >= 0 and bool(mask[item]) and item not in hidden for item in found.tolist()], dtype=np.bool_)
