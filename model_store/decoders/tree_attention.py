"""Forward passes over a tree of continuations, whose nodes are extra positions behind the prompt.

A mask lets each node see the prompt, its own ancestors and itself; its position number is its depth. A beam search
finds the tree level by level, so there is one pass for the prompt and one for each level (`TreePass`): keys and values
are only ever appended, and nothing is copied or reordered when beams fork. Where the whole tree is known beforehand,
prompt and tree go through the model together, once (`whole_tree`).

Works with any decoder-only Hugging Face model that takes a 4-D attention mask and explicit position ids (sdpa).

Shapes: U users, T prompt tokens (padded on the right), B slots a level (beams), S slots of all levels, H hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _AppendOnlyLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer in a buffer that is allocated once."""

    is_croppable = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        users, heads, _, key_size = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(users, heads, self.capacity, key_size)
        self.values = value_states.new_empty(users, heads, self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class TreePass:
    """The state of one batch: what the model has seen, and who descends from whom.

    Args:
        model: the causal language model, in eval mode.
        prompts_UT: token ids, padded on the right with any id; int64 [U, T].
        lengths_U: real tokens of each prompt; int64 [U].
        slots: positions to make room for beyond the prompt, all levels together.
    """

    def __init__(self, model: Any, prompts_UT: Tensor, lengths_U: Tensor, slots: int) -> None:
        self._trunk = model.base_model
        self._lengths_U = lengths_U
        users, width = prompts_UT.shape
        layers = model.config.get_text_config().num_hidden_layers
        self._cache = Cache(layers=[_AppendOnlyLayer(width + slots) for _ in range(layers)])
        self._prompt_visible_UT = torch.arange(width, device=prompts_UT.device)[None] < lengths_U[:, None]
        self._ancestors: list[tuple[Tensor, int]] = []

        # Causal attention with the padding on the right: no real position ever looks at a padded one.
        hidden_UTH = self._trunk(input_ids=prompts_UT, past_key_values=self._cache, use_cache=True).last_hidden_state
        self.prompt_hidden_UH = hidden_UTH[torch.arange(users, device=prompts_UT.device), lengths_U - 1]

    def advance(self, tokens_UB: Tensor, parents_UB: Tensor | None) -> Tensor:
        """Enter one token per slot; returns the hidden states, [U, B, H].

        Args:
            tokens_UB: token ids; int64 [U, B].
            parents_UB: which slot of the level before each one continues; None right after the prompt.
        """
        users, slots = tokens_UB.shape
        device = tokens_UB.device
        if parents_UB is not None:
            self._ancestors = [(slot.gather(1, parents_UB), size) for slot, size in self._ancestors]
        own = torch.arange(slots, device=device).expand(users, slots)
        self._ancestors.append((own, slots))

        depth = len(self._ancestors)
        visible = [self._prompt_visible_UT[:, None].expand(users, slots, -1)]
        visible += [slot[:, :, None] == torch.arange(size, device=device) for slot, size in self._ancestors]
        positions = (self._lengths_U + depth - 1)[:, None].expand(users, slots)
        hidden: Tensor = self._trunk(
            input_ids=tokens_UB,
            attention_mask=torch.cat(visible, dim=-1)[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden


def whole_tree(
    model: Any, prompts_UT: Tensor, lengths_U: Tensor, levels: Sequence[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """The hidden states of all levels from a single pass: the last of each prompt, [U, 1, H], then [U, B, H] a level.

    Args:
        model: the causal language model, in eval mode.
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
    hidden = model.base_model(
        input_ids=torch.cat([prompts_UT, *(tokens_UB for tokens_UB, _ in levels)], dim=1),
        attention_mask=visible[:, None],
        position_ids=torch.cat(positions, dim=1),
        use_cache=False,
    ).last_hidden_state
    prompt_end = hidden[torch.arange(users, device=device), lengths_U - 1]
    return [prompt_end[:, None], *hidden[:, width:].split(sizes, dim=1)]
