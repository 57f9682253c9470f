"""Filters and exclusions of a batch, on a torch device: what a beam search asks of every node it could enter.

The torch form of `prefix_trie.open_nodes`, for many users at once.

Shapes: U users, B beams, C children, F distinct filters, N leaves, X excluded leaves (padded).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.trie_tensors import TrieTensors
from model_store.prefix_trie import EligibleItems, PrefixTrie


class OpenLeaves:
    """Which subtrees still hold an item that each user may see."""

    def __init__(self, trie: PrefixTrie, requests: Sequence[DecodeRequest], device: torch.device) -> None:
        filters: dict[int, int] = {}
        counts: list[NDArray[np.int32]] = []
        rows = []
        excluded = []
        for request in requests:
            leaves = trie.excluded_leaves(request.excluded)
            if request.eligible is not None:
                # A leaf that the filter already closed must not be subtracted a second time.
                leaves = leaves[request.eligible.mask[trie.leaf_item[leaves]]]
            excluded.append(leaves)
            if id(request.eligible) not in filters:
                filters[id(request.eligible)] = len(counts)
                counts.append(_eligible_counts(trie, request.eligible))
            rows.append(filters[id(request.eligible)])
        self._counts_FN = torch.as_tensor(np.stack(counts), dtype=torch.int64, device=device)
        self._filter_U = torch.tensor(rows, device=device)
        # Padding lies beyond the last leaf, where no subtree begins or ends after it.
        width = max(1, *(len(leaves) for leaves in excluded))
        padded = np.full((len(requests), width), trie.item_count + 1, dtype=np.int64)
        for row, leaves in enumerate(excluded):
            padded[row, : len(leaves)] = leaves
        self._excluded_UX = torch.from_numpy(padded).to(device)

    def below(self, trie: TrieTensors, nodes_UBC: Tensor) -> Tensor:
        """Whether each node leads to an item that may be shown; bool [U, B, C]."""
        shape = nodes_UBC.shape
        begin, end = trie.leaf_begin[nodes_UBC].flatten(1), trie.leaf_end[nodes_UBC].flatten(1)
        counts = self._counts_FN[self._filter_U[:, None], end] - self._counts_FN[self._filter_U[:, None], begin]
        counts -= torch.searchsorted(self._excluded_UX, end) - torch.searchsorted(self._excluded_UX, begin)
        return (counts > 0).view(shape)


def _eligible_counts(trie: PrefixTrie, eligible: EligibleItems | None) -> NDArray[np.int32]:
    return np.arange(trie.item_count + 1, dtype=np.int32) if eligible is None else eligible.counts
