"""Filters and exclusions of a batch, on a torch device: what a beam search asks of every node it could enter.

The torch form of `prefix_trie.open_nodes`, for many users at once. What it costs depends on the nodes asked about and
on what users exclude, never on how many items there are: a filter's prefix sum is put on the device once and kept.

Shapes: U users, B beams, C children, N leaves, X excluded leaves (padded).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.trie_tensors import TrieTensors
from model_store.prefix_trie import EligibleItems, PrefixTrie

_ALL_USERS = slice(None)


class OpenLeaves:
    """Which subtrees still hold an item that each user may see."""

    def __init__(self, trie: PrefixTrie, requests: Sequence[DecodeRequest], device: torch.device) -> None:
        excluded = []
        filters: dict[int, tuple[EligibleItems, list[int]]] = {}
        for row, request in enumerate(requests):
            leaves = trie.excluded_leaves(request.excluded)
            if request.eligible is not None:
                # A leaf that the filter already closed must not be subtracted a second time.
                leaves = leaves[request.eligible.mask[trie.leaf_item[leaves]]]
                filters.setdefault(id(request.eligible), (request.eligible, []))[1].append(row)
            excluded.append(leaves)
        # The rows of each filter's users; most batches share one filter, and a slice copies nothing.
        self._filters: list[tuple[slice | Tensor, Tensor]] = [
            (_ALL_USERS if len(rows) == len(requests) else torch.tensor(rows, device=device), _counts(eligible, device))
            for eligible, rows in filters.values()
        ]
        # Padding lies beyond the last leaf, where no subtree begins or ends after it.
        width = max(map(len, excluded), default=0)
        padded = np.full((len(requests), width), trie.item_count + 1, dtype=np.int64)
        for row, leaves in enumerate(excluded):
            padded[row, : len(leaves)] = leaves
        self._excluded_UX = torch.from_numpy(padded).to(device)

    def below(self, trie: TrieTensors, nodes_UBC: Tensor) -> Tensor:
        """Whether each node leads to an item that may be shown; bool [U, B, C]."""
        begin, end = trie.leaf_begin[nodes_UBC].flatten(1), trie.leaf_end[nodes_UBC].flatten(1)
        left = end - begin
        for rows, counts_N in self._filters:
            left[rows] = (counts_N[end[rows]] - counts_N[begin[rows]]).long()
        if self._excluded_UX.shape[1]:
            left -= torch.searchsorted(self._excluded_UX, end) - torch.searchsorted(self._excluded_UX, begin)
        return (left > 0).view(nodes_UBC.shape)


def _counts(eligible: EligibleItems, device: torch.device) -> Tensor:
    """The prefix sum on a device; int32 [N + 1], on a CPU the filter's own memory."""
    kept = eligible.on_devices.get(str(device))
    if kept is None:
        kept = eligible.on_devices[str(device)] = torch.as_tensor(eligible.counts, device=device)
    assert isinstance(kept, Tensor)
    return kept
