"""The prefix trie of valid item codes, as flat arrays.

Items are sorted by code, so every prefix is a contiguous range of that order (its *leaves*). Nodes are numbered breadth
first: the children of a node are contiguous too, and one array of first children describes the whole tree.

Shapes: N items (= leaves), L levels, M nodes (the root, then every distinct prefix, level by level).

Related: Su et al., "Vectorizing the Trie" (STATIC, arXiv:2602.22647) keeps transitions as a sparse matrix. We keep leaf
ranges beside them, because a range plus one prefix sum answers "is any *eligible* item below this node" for any filter.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_store.item_codes import ItemCodes


@dataclass(frozen=True)
class PrefixTrie:
    """All valid prefixes of a catalogue's codes.

    Attributes:
        first_child: int32 [M + 1]; children of node m are first_child[m] : first_child[m + 1]. Leaves have none.
        token: uint8 [M]; the codebook entry that leads to node m (0 for the root).
        leaf_begin, leaf_end: int32 [M]; the leaves below node m.
        leaf_item: int32 [N]; the item at each leaf.
        level_begin: int32 [L + 2]; nodes of depth d are level_begin[d] : level_begin[d + 1].
    """

    first_child: NDArray[np.int32]
    token: NDArray[np.uint8]
    leaf_begin: NDArray[np.int32]
    leaf_end: NDArray[np.int32]
    leaf_item: NDArray[np.int32]
    level_begin: NDArray[np.int32]

    @classmethod
    def build(cls, codes: ItemCodes) -> "PrefixTrie":
        """Build the trie of every code; O(N log N) time, no Python loop over items."""
        count, levels = len(codes), codes.levels
        # Code and item in one number: sorting values is several times faster than an argsort, and gives both.
        keyed = (codes.packed.astype(np.uint64) << np.uint64(32)) | np.arange(count, dtype=np.uint64)
        keyed.sort()
        order = (keyed & np.uint64(0xFFFFFFFF)).astype(np.int32)
        ordered = (keyed >> np.uint64(32)).astype(np.uint32)

        begins = [np.zeros(1, dtype=np.int32)]
        tokens = [np.zeros(1, dtype=np.uint8)]
        for depth in range(1, levels + 1):
            prefix = ordered >> np.uint32(8 * (levels - depth))
            starts = np.flatnonzero(np.diff(prefix, prepend=prefix[:1] ^ np.uint32(1))) if count else np.zeros(0, int)
            begins.append(starts.astype(np.int32))
            tokens.append((prefix[starts] & np.uint32(0xFF)).astype(np.uint8))

        level_begin = np.cumsum([0, *(len(level) for level in begins)]).astype(np.int32)
        # The first child of a node is the node one level down that starts at the same leaf.
        first_child = [
            level_begin[depth + 1] + np.searchsorted(begins[depth + 1], begins[depth]) for depth in range(levels)
        ]
        nodes = int(level_begin[-1])
        leaves = np.full(len(begins[-1]) + 1, nodes)
        return cls(
            first_child=np.concatenate([*first_child, leaves]).astype(np.int32),
            token=np.concatenate(tokens),
            leaf_begin=np.concatenate(begins),
            leaf_end=np.concatenate([np.append(level[1:], count) for level in begins]).astype(np.int32),
            leaf_item=order,
            level_begin=level_begin,
        )

    @property
    def levels(self) -> int:
        """L, the depth of every leaf."""
        return len(self.level_begin) - 2

    @property
    def item_count(self) -> int:
        """N, the number of leaves."""
        return len(self.leaf_item)

    @cached_property
    def item_leaf(self) -> NDArray[np.int32]:
        """The leaf of each item; int32 [N], the inverse of `leaf_item`."""
        inverse = np.empty_like(self.leaf_item)
        inverse[self.leaf_item] = np.arange(self.item_count, dtype=np.int32)
        return inverse

    @cached_property
    def max_children(self) -> tuple[int, ...]:
        """The largest number of children of a node at depth 0 ... L - 1."""
        counts = np.diff(self.first_child)
        return tuple(
            int(counts[self.level_begin[depth] : self.level_begin[depth + 1]].max(initial=0))
            for depth in range(self.levels)
        )

    def children(self, node: int) -> range:
        """The nodes one token below `node`."""
        return range(int(self.first_child[node]), int(self.first_child[node + 1]))

    def paths(self, items: NDArray[np.integer]) -> NDArray[np.int32]:
        """The nodes on the way to each item, root left out; int32 [K, L]."""
        leaves = self.item_leaf[items]
        return np.stack(
            [self.level_begin[depth] + self.prefixes(leaves, depth) for depth in range(1, self.levels + 1)], axis=-1
        ).astype(np.int32)

    def prefixes(self, leaves: NDArray[np.integer], depth: int) -> NDArray[np.int64]:
        """The prefix of that many codes which each leaf begins with, counted from the first of them; int64 [K]."""
        begins = self.leaf_begin[self.level_begin[depth] : self.level_begin[depth + 1]]
        return np.searchsorted(begins, leaves, side="right") - 1


@dataclass(frozen=True)
class EligibleItems:
    """Which items may be shown, as a prefix sum over leaves: one pass per filter, O(1) per node afterwards.

    Attributes:
        counts: int32 [N + 1]; counts[k] is the number of eligible items among the first k leaves.
        mask: bool [N], by item index.
        on_devices: `counts` as engines have put it on their devices, by the device's name: once for each, and gone
            with the filter. Empty where nothing decodes.
    """

    counts: NDArray[np.int32]
    mask: NDArray[np.bool_]
    on_devices: dict[str, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_mask(cls, trie: PrefixTrie, mask: NDArray[np.bool_]) -> "EligibleItems":
        """Count eligible leaves. `mask` is bool [N] by item index."""
        counts = np.zeros(trie.item_count + 1, dtype=np.int32)
        np.cumsum(mask[trie.leaf_item], out=counts[1:])
        return cls(counts=counts, mask=mask)

    @property
    def total(self) -> int:
        """How many items are eligible."""
        return int(self.counts[-1])
