"""A Hugging Face language model that reads prompts with soft tokens, alone or behind a prefix that many share.

What several prompts begin with goes through the model once (`prefill`); its keys and values are then repeated for each
of them (`extend`), so that ranking a hundred items costs one user's prompt and a hundred short endings.

Shapes: B prompts, T tokens of the longest, H hidden size, M endings, S tokens of the longest ending, V token ids.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from model_store.rankers.soft_prompt import Slot, SoftPrompt


class Steering(Protocol):
    """Changes what the model's layers attend to."""

    def over(self, soft_BK: Tensor) -> AbstractContextManager[Any]:
        """Steer every forward pass within it; `soft_BK` says which keys are soft tokens (bool, cached ones included).

        A backward pass that recomputes activations has to be within it too.
        """


@dataclass(frozen=True, eq=False)
class Embedded:
    """A batch of prompts as vectors.

    Attributes:
        vectors_BTH: padding is zeros.
        real_BT: bool, False for padding.
        soft_BT: bool, True for soft tokens.
    """

    vectors_BTH: Tensor
    real_BT: Tensor
    soft_BT: Tensor


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the model has kept of a batch of prompts.

    Attributes:
        last_BH: the last hidden state of each prompt's last token.
        cache: keys and values of every layer.
        real_BT, soft_BT: as in `Embedded`.
    """

    last_BH: Tensor
    cache: Any
    real_BT: Tensor
    soft_BT: Tensor

    def rows(self, rows_M: Tensor) -> "Prefix":
        """The prefixes of these rows, each copied as often as it is named."""
        chosen = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            chosen.update(layer.keys[rows_M], layer.values[rows_M], number)
        return Prefix(self.last_BH[rows_M], chosen, self.real_BT[rows_M], self.soft_BT[rows_M])


class SoftPromptModel:
    """A causal language model and its tokenizer.

    Args:
        model: any decoder-only Hugging Face model that takes `inputs_embeds`, `position_ids` and a cache.
        tokenizer: its tokenizer.
        steering: what bends its attention; None for nothing.
    """

    def __init__(self, model: Any, tokenizer: Any, steering: Steering | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.steering = steering

    def copied(self) -> "SoftPromptModel":
        """The same, with weights of its own: training this one leaves it as it is."""
        return SoftPromptModel(copy.deepcopy(self.model), self.tokenizer, self.steering)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._table.device

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self._table.shape[1])

    @property
    def mean_norm(self) -> float:
        """Mean length of the vectors that words have at the input: what a soft token's should be like."""
        return float(self._table.detach().float().norm(dim=-1).mean())

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest prompt; None where the model does not say."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if limit is None else int(limit)

    def text(self, text: str) -> list[int]:
        """Token ids of plain text; the names of special tokens in it are text too."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def start(self) -> list[int]:
        """Token ids that every prompt of this model begins with; none where its tokenizer adds none."""
        ids: list[int] = self.tokenizer("")["input_ids"]
        return ids[:1] if ids[:1] == [self.tokenizer.bos_token_id] else []

    def embed(self, prompts: Sequence[SoftPrompt], soft: Mapping[str, Tensor], *, pad_left: bool = False) -> Embedded:
        """Look up words and put soft tokens in their places; gradients flow into `soft`.

        Args:
            prompts: B, none empty.
            soft: for each kind of slot that occurs [slots, H], in the order of `soft_prompt.slot_keys`.
            pad_left: whether shorter prompts are padded in front rather than behind.

        Raises:
            ValueError: there are more or fewer vectors of a kind than slots.
        """
        longest = max(len(prompt) for prompt in prompts)
        ids_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
        real_BT = torch.zeros(len(prompts), longest, dtype=torch.bool)
        places: dict[str, list[int]] = {kind: [] for kind in soft}
        for row, prompt in enumerate(prompts):
            first = longest - len(prompt) if pad_left else 0
            real_BT[row, first : first + len(prompt)] = True
            for at, part in enumerate(prompt.parts, first):
                if isinstance(part, Slot):
                    places.setdefault(part.kind, []).append(row * longest + at)
                else:
                    ids_BT[row, at] = part
        for kind, found in places.items():
            if len(found) != len(soft.get(kind, ())):
                raise ValueError(f"{len(soft.get(kind, ()))} vectors for {len(found)} slots of kind {kind!r}")
        real_BT = real_BT.to(self.device)
        flat = self._embedding(ids_BT.to(self.device)).flatten(0, 1) * real_BT.flatten()[:, None]
        soft_flat = torch.zeros(len(flat), dtype=torch.bool, device=self.device)
        for kind, found in places.items():
            index = torch.tensor(found, dtype=torch.int64, device=self.device)
            flat = flat.index_copy(0, index, soft[kind].to(flat.dtype))
            soft_flat[index] = True
        return Embedded(flat.view(*real_BT.shape, -1), real_BT, soft_flat.view(real_BT.shape))

    def hidden(self, batch: Embedded) -> Tensor:
        """The last hidden states of whole prompts, [B, T, H]; those of padding mean nothing."""
        with self._steered(batch.soft_BT):
            return self._states(batch.vectors_BTH, batch.real_BT, _positions(batch.real_BT), None)

    def prefill(self, batch: Embedded) -> Prefix:
        """Read prompts that others continue. They must be padded in front."""
        cache = DynamicCache()
        with self._steered(batch.soft_BT):
            states = self._states(batch.vectors_BTH, batch.real_BT, _positions(batch.real_BT), cache)
        return Prefix(states[:, -1], cache, batch.real_BT, batch.soft_BT)

    def extend(self, prefix: Prefix, batch: Embedded) -> Tensor:
        """The last hidden states of endings, each behind the prefix of its row; [M, S, H]. Uses the prefix up.

        Args:
            prefix: M rows (see `Prefix.rows`).
            batch: the endings, padded behind.
        """
        real_MK = torch.cat([prefix.real_BT, batch.real_BT], dim=1)
        positions = _positions(real_MK)[:, prefix.real_BT.shape[1] :]
        with self._steered(torch.cat([prefix.soft_BT, batch.soft_BT], dim=1)):
            return self._states(batch.vectors_BTH, real_MK, positions, prefix.cache)

    def logits(self, hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Logits of some tokens, or of all; float32 [..., V] for hidden states [..., H]."""
        head = self.model.get_output_embeddings()
        if token_ids is None:
            return head(hidden).float()  # type: ignore[no-any-return]
        bias = None if getattr(head, "bias", None) is None else head.bias[token_ids]
        return torch.nn.functional.linear(hidden, head.weight[token_ids], bias).float()

    @property
    def _embedding(self) -> Any:
        return self.model.get_input_embeddings()

    @property
    def _table(self) -> Tensor:
        table: Tensor = self._embedding.weight
        return table

    def _steered(self, soft_BK: Tensor) -> AbstractContextManager[Any]:
        return nullcontext() if self.steering is None else self.steering.over(soft_BK)

    def _states(self, vectors: Tensor, real_BK: Tensor, positions_BT: Tensor, cache: Any) -> Tensor:
        states: Tensor = self.model.base_model(
            inputs_embeds=vectors,
            attention_mask=real_BK.long(),
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        return states


def _positions(real_BT: Tensor) -> Tensor:
    """Position numbers that leave padding out; int64 [B, T]."""
    return (real_BT.long().cumsum(1) - 1).clamp(min=0)
