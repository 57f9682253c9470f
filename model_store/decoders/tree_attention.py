"""Forward passes over a tree of continuations, whose nodes are extra positions behind the prompt.

A mask lets each node see the prompt, its own ancestors and itself; its position number is its depth. A beam search
finds the tree level by level, so there is one pass for the prompt and at most one for each level (`TreePass`): keys
and values are only ever appended, and nothing is copied or reordered when beams fork. Where the whole tree is known
beforehand, prompt and tree go through the model together, once (`whole_tree`).

Shapes: U users, T prompt tokens (padded on the right), B slots a level (beams), S slots of all levels, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.decoders.language_model import AppendOnlyLayer, LanguageModel

_NOT_ENTERED = -1


class TreePass:
    """The state of one batch of beam searches: what the model has seen, and the way to each beam.

    A beam may be followed down without its state being computed; `states` computes what is missing of the way to the
    beams it is asked for, and nothing of the others.

    Args:
        model: the language model.
        prompts_UT: token ids, padded on the right with any id; int64 [U, T].
        lengths_U: real tokens of each prompt; int64 [U].
        slots: positions likely to be needed beyond the prompt, all levels together.

    Attributes:
        prompt_hidden_UH: the hidden state behind each prompt.
        passes: how often the model has been called.
    """

    def __init__(self, model: LanguageModel, prompts_UT: Tensor, lengths_U: Tensor, slots: int) -> None:
        self._model = model
        self._lengths_U = lengths_U
        users, width = prompts_UT.shape
        self._cache = [AppendOnlyLayer(width + slots) for _ in range(model.layers)]
        places_UT = torch.arange(width, device=prompts_UT.device).expand(users, width)
        self._prompt_visible_UT = places_UT < lengths_U[:, None]
        # Of each beam the tokens below the prompt, one a level, and the slots they were computed in.
        self._tokens_UBD = prompts_UT.new_empty(users, 1, 0)
        self._slots_UBD = prompts_UT.new_empty(users, 1, 0)
        self._entered = 0

        # Causal attention with the padding on the right: no real position ever looks at a padded one.
        hidden_UTH = model.hidden(prompts_UT, places_UT, None, self._cache)
        self.passes = 1
        self.prompt_hidden_UH = hidden_UTH[torch.arange(users, device=prompts_UT.device), lengths_U - 1]

    def follow(self, parents_UB: Tensor, tokens_UB: Tensor) -> None:
        """Replace the beams by ones a level further down.

        Args:
            parents_UB: the beam each one continues; int64 [U, B], all 0 after the prompt.
            tokens_UB: the token it adds; int64 [U, B].
        """
        depth = self._tokens_UBD.shape[2]
        rows = parents_UB[:, :, None].expand(-1, -1, depth)
        self._tokens_UBD = torch.cat([self._tokens_UBD.gather(1, rows), tokens_UB[:, :, None]], dim=2)
        unknown = torch.full_like(tokens_UB, _NOT_ENTERED)
        self._slots_UBD = torch.cat([self._slots_UBD.gather(1, rows), unknown[:, :, None]], dim=2)

    def states(self, wanted_UB: Tensor) -> Tensor:
        """The hidden states behind the beams that are wanted, [U, B, H]; zeros for the others.

        What two of them have not computed yet of a common way is computed for each: want a beam before it forks.
        """
        users, beams, depth = self._tokens_UBD.shape
        device = self._tokens_UBD.device
        entering = (wanted_UB[:, :, None] & (self._slots_UBD == _NOT_ENTERED)).flatten(1)
        counts_U = entering.sum(1)
        width = int(counts_U.max())
        hidden_UBH: Tensor = self.prompt_hidden_UH.new_zeros(users, beams, self.prompt_hidden_UH.shape[1])
        if width == 0:
            return hidden_UBH
        # Slot s of this pass holds the s-th of the user's steps that enter; users with fewer pad with others.
        steps_US = (~entering).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        ranks = entering.cumsum(1) - 1
        slots = torch.where(entering, self._entered + ranks, self._slots_UBD.flatten(1))
        self._slots_UBD = slots.view(users, beams, depth)

        beam_US, level_US = steps_US // depth, steps_US % depth
        own_US = self._entered + torch.arange(width, device=device).expand(users, width)
        way_USD = self._slots_UBD.gather(1, beam_US[:, :, None].expand(-1, -1, depth))
        # Below itself a step sees nothing; a slot that only pads sees the prompt and itself.
        real_US = torch.arange(width, device=device) < counts_U[:, None]
        above = (torch.arange(depth, device=device) < level_US[:, :, None]) & real_US[:, :, None]
        way_USD = torch.where(above, way_USD, own_US[:, :, None])
        self._entered += width
        tree_visible = torch.zeros(users, width, self._entered, dtype=torch.bool, device=device)
        tree_visible.scatter_(2, way_USD, True)
        visible = torch.cat([self._prompt_visible_UT[:, None].expand(-1, width, -1), tree_visible], dim=2)
        self.passes += 1
        hidden_USH = self._model.hidden(
            self._tokens_UBD.flatten(1).gather(1, steps_US), self._lengths_U[:, None] + level_US, visible, self._cache
        )
        # A beam that is wanted has just been entered, or was when it was wanted before.
        last_UB = (self._slots_UBD[:, :, -1] - (self._entered - width)).clamp(min=0)
        found_UBH = hidden_USH.gather(1, last_UB[:, :, None].expand(-1, -1, hidden_USH.shape[2]))
        return torch.where(wanted_UB[:, :, None], found_UBH, hidden_UBH)


def whole_tree(
    model: LanguageModel, prompts_UT: Tensor, lengths_U: Tensor, levels: Sequence[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """The hidden states of all levels from a single pass: the last of each prompt, [U, 1, H], then [U, B, H] a level.

    Args:
        model: the language model.
        prompts_UT: token ids, padded on the right with any id; int64 [U, T].
        lengths_U: real tokens of each prompt; int64 [U].
        levels: of each level below the prompt the token ids, and which slot of the level before each one continues (of
            no meaning in the first); int64 [U, B] both, where B differs from level to level.
    """
    users, width = prompts_UT.shape
    device = prompts_UT.device
    sizes = [tokens_UB.shape[1] for tokens_UB, _ in levels]
    total = width + sum(sizes)
    visible = torch.zeros(users, total, total, dtype=torch.bool, device=device)
    # Causal with the padding on the right: no real position ever looks at a padded one.
    visible[:, :width, :width] = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    visible[:, width:, :width] = (torch.arange(width, device=device)[None] < lengths_U[:, None])[:, None]
    positions = [torch.arange(width, device=device).expand(users, width)]
    begin, above = width, slice(0, 0)
    for depth, (size, (_, parents_UB)) in enumerate(zip(sizes, levels, strict=True)):
        own = slice(begin, begin + size)
        if depth:
            ancestors = visible[:, above, width:]
            visible[:, own, width:] = ancestors.gather(1, parents_UB[:, :, None].expand(-1, -1, ancestors.shape[2]))
        visible[:, own, own] = torch.eye(size, dtype=torch.bool, device=device)
        positions.append((lengths_U + depth)[:, None].expand(users, size))
        begin, above = begin + size, own
    tokens = torch.cat([prompts_UT, *(tokens_UB for tokens_UB, _ in levels)], dim=1)
    hidden = model.hidden(tokens, torch.cat(positions, dim=1), visible, None)
    prompt_end = hidden[torch.arange(users, device=device), lengths_U - 1]
    return [prompt_end[:, None], *torch.split(hidden[:, width:], sizes, dim=1)]
