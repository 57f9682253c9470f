"""The prefix trie on a torch device: what the decoder and the training loss look children up in.

Shapes: U and B are any two batch dimensions, C the largest number of children at that depth, M nodes.
"""

import torch
from torch import Tensor

from model_store.prefix_trie import PrefixTrie


class TrieTensors:
    """A trie's arrays on one device, int64 because they index."""

    def __init__(self, trie: PrefixTrie, device: torch.device) -> None:
        self.first_child = torch.as_tensor(trie.first_child, dtype=torch.int64, device=device)
        self.token = torch.as_tensor(trie.token, dtype=torch.int64, device=device)
        self.leaf_begin = torch.as_tensor(trie.leaf_begin, dtype=torch.int64, device=device)
        self.leaf_end = torch.as_tensor(trie.leaf_end, dtype=torch.int64, device=device)
        self._offsets = [torch.arange(count, device=device) for count in trie.max_children]

    def widest(self, depth: int) -> int:
        """C, the largest number of children of a node of this depth."""
        return len(self._offsets[depth])

    def children(self, nodes_UB: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Children of nodes of one depth, padded to the widest family: node numbers and which are real, [U, B, C]."""
        first_UB = self.first_child[nodes_UB]
        children_UBC = first_UB[:, :, None] + self._offsets[depth]
        real_UBC = children_UBC < self.first_child[nodes_UB + 1][:, :, None]
        return torch.where(real_UBC, children_UBC, first_UB[:, :, None]), real_UBC
