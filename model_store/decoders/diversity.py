"""The choice of a beam's nodes, with or without a cap on prefixes, for many users at once on a torch device.

Why a capped beam finds as many items as there can be is told in `prefix_cap.PrefixCap`.

Shapes: U users, K nodes that could be entered (the children of all beams of a user), B nodes kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.trie_tensors import TrieTensors
from model_store.prefix_cap import reserved_places
from model_store.prefix_trie import PrefixTrie


class BeamChoice:
    """Keeps the best nodes of a level.

    Args:
        trie: the whole catalogue's.
        tensors: the same on the device.
        requests: the batch, all of the same cap and prefixes.
    """

    def __init__(self, trie: PrefixTrie, tensors: TrieTensors, requests: Sequence[DecodeRequest]) -> None:
        self._leaf_begin = tensors.leaf_begin
        self._most, self._levels = requests[0].max_per_prefix, requests[0].prefix_levels
        if self._most is None:
            return
        places = [[reserved_places(request.n, request.width)] for request in requests]
        self._reserved_U1 = torch.tensor(places, device=tensors.device)
        begin, end = (int(trie.level_begin[level]) for level in (self._levels, self._levels + 1))
        self._prefix_begin = tensors.leaf_begin[torch.arange(begin, end, device=tensors.device)]

    def best(self, scores_UK: Tensor, nodes_UK: Tensor, width: int, depth: int) -> tuple[Tensor, Tensor]:
        """The nodes to keep: their scores, and their places among the K; both [U, B].

        Args:
            scores_UK: minus infinity for nodes that are closed, which are kept only where too few others are left.
            nodes_UK: node numbers.
            width: nodes to keep, where there are as many.
            depth: of the nodes.
        """
        keep = min(width, scores_UK.shape[1])
        # So far up no two nodes share a prefix.
        if self._most is None or depth <= self._levels:
            scores_UB, places_UB = scores_UK.topk(keep, dim=1)
            return scores_UB, places_UB
        order_UK = scores_UK.argsort(dim=1, descending=True)
        prefixes_UK = torch.searchsorted(self._prefix_begin, self._leaf_begin[nodes_UK.gather(1, order_UK)], right=True)
        open_UK = scores_UK.gather(1, order_UK).isfinite()
        within_UK = (_turn_of_each(prefixes_UK) < self._most) & open_UK
        reserved_UK = within_UK & (within_UK.cumsum(1) <= self._reserved_U1)
        places_UB = order_UK.gather(1, (~reserved_UK).byte().argsort(dim=1, stable=True)[:, :keep])
        return scores_UK.gather(1, places_UB), places_UB


def _turn_of_each(groups_UK: Tensor) -> Tensor:
    """How many of the same group come before each in its row, as `prefix_cap.turn_of_each`."""
    ordered_UK, order_UK = groups_UK.sort(dim=1, stable=True)
    places_UK = torch.arange(groups_UK.shape[1], device=groups_UK.device).expand_as(groups_UK)
    begins_UK = torch.ones_like(ordered_UK, dtype=torch.bool)
    begins_UK[:, 1:] = ordered_UK[:, 1:] != ordered_UK[:, :-1]
    turns_UK = places_UK - torch.where(begins_UK, places_UK, 0).cummax(dim=1).values
    return torch.empty_like(turns_UK).scatter_(1, order_UK, turns_UK)
