"""The training loss that fits constrained decoding: a softmax over a node's children, level by level.

Summed over the levels it is exactly the negative log-likelihood of an item under constrained decoding, so training
optimises what the decoder ranks by, and nothing is spent on codes that do not exist. A collaborative teacher can be
distilled into it: its item probabilities, summed below each child, are soft targets.

The softmax may run over all code tokens in use at a level instead, whether or not they continue the prefix: what plain
cross-entropy learns, restricted to code tokens. The model then also learns which codes exist, and a node with a single
child, which is certain under the trie and costs nothing, is learned like any other.

Shapes: P supervised positions, H hidden size, L levels, N items, C children and F leaves below a node (padded).
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from model_store.decoders.trie_tensors import TrieTensors
from model_store.prefix_trie import PrefixTrie

DISTILLED_LEVELS = 2
"""Levels that follow the teacher. The first two carry nearly all of the decision; below them a node's share of the
teacher's mass is often too small to be a distribution."""


class TrieLoss:
    """Item-level negative log-likelihood under the trie, with optional distillation.

    Args:
        trie: the catalogue's codes.
        code_ids_LC: token id of each code token; int64 [L, C].
        device: where the tensors live.
        softmax: `children`: over a node's children; `level`: over every code token that an item has at that level.
    """

    def __init__(self, trie: PrefixTrie, code_ids_LC: Tensor, device: torch.device, softmax: str = "children") -> None:
        self._trie = TrieTensors(trie, device)
        self._levels = trie.levels
        self._code_ids_LC = code_ids_LC
        self._leaf_item = torch.as_tensor(trie.leaf_item, dtype=torch.int64, device=device)
        self._paths_NL = torch.as_tensor(trie.paths(torch.arange(trie.item_count).numpy()), dtype=torch.int64)
        self._paths_NL = self._paths_NL.to(device)
        self._unused = None
        if softmax == "level":
            self._unused = torch.ones_like(code_ids_LC, dtype=torch.bool)
            for level, (begin, end) in enumerate(pairwise(trie.level_begin[1:])):
                self._unused[level, torch.as_tensor(trie.token[begin:end], dtype=torch.int64, device=device)] = False
        self._most_leaves = [
            int((trie.leaf_end - trie.leaf_begin)[trie.level_begin[depth] : trie.level_begin[depth + 1]].max(initial=0))
            for depth in range(trie.levels)
        ]

    def by_position(
        self,
        hidden_PLH: Tensor,
        items_P: Tensor,
        head_weight: Tensor,
        teacher_PN: Tensor | None,
        weight: float,
        head_bias: Tensor | None = None,
    ) -> Tensor:
        """The summed level losses of each position; float32 [P].

        Args:
            hidden_PLH: the model's state before each code token of the target.
            items_P: the target items.
            head_weight: the output embedding, [vocabulary, H].
            teacher_PN: how likely the teacher finds each item, up to a factor of each row (float32, rows of zeros where
                it has no opinion), or None.
            weight: share of the soft loss, 0 to 1.
            head_bias: of the output embedding, [vocabulary], where it has one.
        """
        total = torch.zeros(len(items_P), device=items_P.device)
        parents_P = torch.zeros_like(items_P)
        for level in range(self._levels):
            own_P = self._paths_NL[items_P, level]
            children_PC, real_PC = (x.squeeze(1) for x in self._trie.children(parents_P[:, None], level))
            ids_C = self._code_ids_LC[level]
            bias_C = None if head_bias is None else head_bias[ids_C]
            logits = functional.linear(hidden_PLH[:, level], head_weight[ids_C], bias_C).float()
            log_probs_PC = self._log_probs(logits, children_PC, real_PC, level)
            # Children are contiguous, so a child's column is its distance from the first one.
            hard_P = -log_probs_PC.gather(-1, (own_P - self._trie.first_child[parents_P])[:, None])[:, 0]
            if teacher_PN is not None and level < DISTILLED_LEVELS:
                mass_PC = self._mass_of_children(teacher_PN, parents_P, level)
                hard_P = _with_teacher(hard_P, log_probs_PC, real_PC, mass_PC, weight)
            total = total + hard_P
            parents_P = own_P
        return total

    def _log_probs(self, logits: Tensor, children_PC: Tensor, real_PC: Tensor, level: int) -> Tensor:
        """Log-probability of each child, of no meaning where it is not real; float32 [P, C]."""
        tokens_PC = self._trie.token[children_PC]
        if self._unused is None:
            return logits.gather(-1, tokens_PC).masked_fill(~real_PC, float("-inf")).log_softmax(-1)
        return logits.masked_fill(self._unused[level], float("-inf")).log_softmax(-1).gather(-1, tokens_PC)

    def _mass_of_children(self, teacher_PN: Tensor, parents_P: Tensor, level: int) -> Tensor:
        """What the teacher finds below each child of nodes of one level; float32 [P, C]."""
        mass_PC = teacher_PN.new_zeros(len(parents_P), self._trie.widest(level))
        if level == 0:
            # Every item lies below the root. In one pass over them: this is most of what a teacher costs.
            return mass_PC.index_add_(1, self._paths_NL[:, 0] - 1, teacher_PN)
        begin_P1, end_P1 = self._trie.leaf_begin[parents_P][:, None], self._trie.leaf_end[parents_P][:, None]
        leaves_PF = begin_P1 + torch.arange(self._most_leaves[level], device=begin_P1.device)
        real_PF = leaves_PF < end_P1
        items_PF = self._leaf_item[torch.where(real_PF, leaves_PF, begin_P1)]
        columns_PF = self._paths_NL[items_PF, level] - self._trie.first_child[parents_P][:, None]
        return mass_PC.scatter_add_(1, columns_PF, teacher_PN.gather(1, items_PF) * real_PF)


def _with_teacher(hard_P: Tensor, log_probs_PC: Tensor, real_PC: Tensor, mass_PC: Tensor, weight: float) -> Tensor:
    sum_P = mass_PC.sum(-1)
    soft_targets_PC = mass_PC / sum_P.clamp(min=1e-12)[:, None]
    soft_P = -(soft_targets_PC * log_probs_PC.masked_fill(~real_PC, 0)).sum(-1)
    # Where the teacher sees next to nothing below this node it has no opinion to follow.
    return torch.where(sum_P > 1e-9, (1 - weight) * hard_P + weight * soft_P, hard_P)
