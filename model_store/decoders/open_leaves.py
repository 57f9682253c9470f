"""Filters and exclusions of a batch, on a torch device: what a beam search asks of every node it could enter.

What it costs depends on the nodes asked about and on what users exclude, never on how many items there are: a filter's
prefix sum is put on the device once and kept, and of exclusions only the few nodes are looked at that they close.

Shapes: U users, B beams, C children, N leaves, X excluded leaves of all users, K closed nodes of a user (padded).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.trie_tensors import TrieTensors, gathered
from model_store.prefix_trie import EligibleItems, PrefixTrie

_ALL_USERS = slice(None)
_NO_NODE = -1


class OpenLeaves:
    """Which subtrees still hold an item that each user may see."""

    def __init__(self, trie: PrefixTrie, requests: Sequence[DecodeRequest], device: torch.device) -> None:
        users_of: dict[int, tuple[EligibleItems | None, list[int]]] = {}
        for row, request in enumerate(requests):
            users_of.setdefault(id(request.eligible), (request.eligible, []))[1].append(row)
        # Most batches share one filter, and a slice copies nothing.
        self._filters: list[tuple[slice | Tensor, Tensor]] = [
            (_ALL_USERS if len(rows) == len(requests) else torch.tensor(rows, device=device), _counts(eligible, device))
            for eligible, rows in users_of.values()
            if eligible is not None
        ]
        closed = [
            _closed_nodes(trie, [(row, requests[row].excluded) for row in rows], eligible)
            for eligible, rows in users_of.values()
        ]
        self._closed_UK = torch.from_numpy(_by_user(closed, len(requests))).to(device)

    def below(self, trie: TrieTensors, children_UBC: Tensor) -> Tensor:
        """Whether each node leads to an item that may be shown; bool [U, B, C].

        Args:
            trie: of the nodes.
            children_UBC: families as `TrieTensors.children` gives them: consecutive nodes. Of no meaning for padding.
        """
        users, beams, width = children_UBC.shape
        # A slot more than there are nodes, for what closes none of them.
        open_US = torch.ones(users, beams * width + 1, dtype=torch.bool, device=children_UBC.device)
        if self._closed_UK.shape[1]:
            # A family is consecutive, so where in it a closed node is can be computed, and no child is searched for.
            place_UKB = self._closed_UK[:, :, None] - children_UBC[:, None, :, 0]
            first_slot_B = torch.arange(beams, device=place_UKB.device) * width
            inside_UKB = (place_UKB >= 0) & (place_UKB < width)
            slots_UKB = torch.where(inside_UKB, place_UKB + first_slot_B, beams * width)
            open_US.scatter_(1, slots_UKB.flatten(1), False)
        open_UBC = open_US[:, :-1].view(users, beams, width)
        for rows, counts_N in self._filters:
            nodes = children_UBC[rows]
            open_UBC[rows] &= gathered(counts_N, trie.leaf_end[nodes]) > gathered(counts_N, trie.leaf_begin[nodes])
        return open_UBC


def _counts(eligible: EligibleItems, device: torch.device) -> Tensor:
    """The prefix sum on a device; int32 [N + 1], on a CPU the filter's own memory."""
    kept = eligible.on_devices.get(str(device))
    if kept is None:
        kept = eligible.on_devices[str(device)] = torch.as_tensor(eligible.counts, device=device)
    assert isinstance(kept, Tensor)
    return kept


Closed = tuple[NDArray[np.int64], NDArray[np.int64]]


def _closed_nodes(
    trie: PrefixTrie, excluded: Sequence[tuple[int, NDArray[np.int32]]], eligible: EligibleItems | None
) -> Closed:
    """The nodes below which a user excludes all that is eligible, at every depth: users and nodes.

    Args:
        trie: the catalogue's.
        excluded: users, ascending, and the items that each must not see.
        eligible: the filter that all of them share.
    """
    owners = np.repeat([user for user, _ in excluded], [len(items) for _, items in excluded]).astype(np.int64)
    leaves = trie.item_leaf[np.concatenate([items for _, items in excluded])].astype(np.int64)
    if eligible is not None:
        # A leaf that the filter already closed must not be subtracted a second time.
        shown = eligible.mask[trie.leaf_item[leaves]]
        owners, leaves = owners[shown], leaves[shown]
    keys = np.unique(owners * trie.item_count + leaves)
    users, leaves = np.divmod(keys, trie.item_count)
    nodes, held = leaves + trie.level_begin[-2], np.ones_like(leaves)
    found = [(users, nodes)]
    # Only the parent of a closed node can be closed, and it is if its closed children hold all that it holds.
    for depth in reversed(range(trie.levels)):
        if not len(nodes):
            break
        first, end = trie.level_begin[depth : depth + 2]
        begins = trie.leaf_begin[nodes]
        parents = first + np.searchsorted(trie.leaf_begin[first:end], begins, side="right").astype(np.int64) - 1
        starts = np.flatnonzero((np.diff(parents, prepend=-1) != 0) | (np.diff(users, prepend=-1) != 0))
        parents, users, held = parents[starts], users[starts], np.add.reduceat(held, starts)
        begins, ends = trie.leaf_begin[parents], trie.leaf_end[parents]
        closed = held == (ends - begins if eligible is None else eligible.counts[ends] - eligible.counts[begins])
        nodes, users, held = parents[closed], users[closed], held[closed]
        found.append((users, nodes))
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def _by_user(closed: Sequence[Closed], users: int) -> NDArray[np.int64]:
    """A row for each user, padded."""
    owners, nodes = (np.concatenate(parts) for parts in zip(*closed, strict=True))
    order = np.argsort(owners, kind="stable")
    lengths = np.bincount(owners, minlength=users)
    rows = np.full((users, lengths.max(initial=0)), _NO_NODE, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = nodes[order]
    return rows
