"""The part of the trie that leads to a few given items: all that must be computed to score exactly these.

Shapes: K items, L levels, B nodes of one depth, A items that pass one of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.prefix_trie import PrefixTrie


@dataclass(frozen=True, slots=True)
class TreeLevel:
    """The nodes of one depth at which something is decided.

    Attributes:
        nodes: int64 [B], distinct and ascending.
        parents: int64 [B]; where each one's parent is among the nodes one level up. Zeros at the root.
        items: int64 [A]; which of the K items lie below these nodes.
        slots: int64 [A]; the node of each, as a place in `nodes`.
        children: int64 [A]; which of that node's children leads to the item, counted from its first.
    """

    nodes: NDArray[np.int64]
    parents: NDArray[np.int64]
    items: NDArray[np.int64]
    slots: NDArray[np.int64]
    children: NDArray[np.int64]


def item_tree(trie: PrefixTrie, items: NDArray[np.integer], *, skip_certain: bool) -> tuple[TreeLevel, ...]:
    """The L levels of the tree, the root's first.

    Args:
        trie: the whole catalogue's.
        items: item indices, duplicates allowed; [K].
        skip_certain: leave out nodes with a single child, unless one below them has more. Where a score runs over the
            children, such a child is certain and adds nothing; most of the last nodes are of that kind.
    """
    paths_KL = trie.paths(items).astype(np.int64)
    # The node at which each level of a code is decided: the root, then the path without its leaf.
    above_KL = np.concatenate([np.zeros((len(paths_KL), 1), dtype=np.int64), paths_KL[:, :-1]], axis=1)
    decides_KL = trie.first_child[above_KL + 1] - trie.first_child[above_KL] > (1 if skip_certain else 0)
    # A node that decides nothing is still an ancestor of those that do.
    needed_KL = np.logical_or.accumulate(decides_KL[:, ::-1], axis=1)[:, ::-1]
    levels = []
    slot_of_item = np.zeros(len(paths_KL), dtype=np.int64)
    for depth in range(trie.levels):
        rows = np.flatnonzero(needed_KL[:, depth])
        nodes, first, slots = np.unique(above_KL[rows, depth], return_index=True, return_inverse=True)
        levels.append(
            TreeLevel(
                nodes=nodes,
                parents=slot_of_item[rows[first]],
                items=rows,
                slots=slots,
                # Children are contiguous, so a child's number is its distance from the first.
                children=paths_KL[rows, depth] - trie.first_child[nodes[slots]],
            )
        )
        slot_of_item[rows] = slots
    return tuple(levels)
