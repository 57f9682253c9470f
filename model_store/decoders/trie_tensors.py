"""The prefix trie on a torch device: what the decoder and the training loss look children up in.

Shapes: U and B are any two batch dimensions, C the largest number of children at that depth, M nodes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.prefix_trie import PrefixTrie


def gathered(values: Tensor, places: Tensor) -> Tensor:
    """`values[places]` for a flat array, some times faster on a CPU."""
    return values.index_select(0, places.flatten()).view(places.shape)


class NodeArray:
    """One array of the trie, kept as narrow as it is stored and read as int64, which is what indexes.

    On a CPU it is the trie's own memory. Widened whole, the arrays would take two and a half times as much, for the few
    thousand numbers that a decode reads of them.
    """

    def __init__(self, values_M: NDArray[np.generic], device: torch.device) -> None:
        self._values_M = torch.as_tensor(values_M, device=device)

    def __getitem__(self, nodes: Tensor) -> Tensor:
        return gathered(self._values_M, nodes).long()

    @property
    def nbytes(self) -> int:
        """Memory of the whole array on its device."""
        return self._values_M.nbytes


class TrieTensors:
    """A trie's arrays on one device (see `prefix_trie.PrefixTrie`)."""

    def __init__(self, trie: PrefixTrie, device: torch.device) -> None:
        self.device = device
        self.first_child = NodeArray(trie.first_child, device)
        self.token = NodeArray(trie.token, device)
        self.leaf_begin = NodeArray(trie.leaf_begin, device)
        self.leaf_end = NodeArray(trie.leaf_end, device)
        self._offsets = [torch.arange(count, device=device) for count in trie.max_children]

    @property
    def nbytes(self) -> int:
        """Memory of all arrays on their device."""
        return sum(array.nbytes for array in (self.first_child, self.token, self.leaf_begin, self.leaf_end))

    def widest(self, depth: int) -> int:
        """C, the largest number of children of a node of this depth."""
        return len(self._offsets[depth])

    def children(self, nodes_UB: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Children of nodes of one depth, padded to the widest family: node numbers and which are real, [U, B, C]."""
        first_UB1, end_UB1 = self.first_child[nodes_UB][:, :, None], self.first_child[nodes_UB + 1][:, :, None]
        children_UBC = first_UB1 + self._offsets[depth]
        real_UBC = children_UBC < end_UB1
        return torch.where(real_UBC, children_UBC, first_UB1), real_UBC
