"""What tree attention asks of a language model, and how a Hugging Face model answers.

Shapes: U users, T tokens, K tokens they may see (those in the cache, then the T), B beams, H hidden size, V token ids.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from model_store.errors import DecoderUnusable

_HEAD_TOLERANCE = 1e-3


class AppendOnlyLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer in a buffer that is allocated ahead.

    Args:
        capacity: positions to make room for; more still fit, at the price of a copy.
    """

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
        if end > self.capacity:
            self._grow(end)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grow(self, capacity: int) -> None:
        # Rare: users of a batch entered their beams in different passes.
        missing = (0, 0, 0, capacity - self.capacity)
        self.keys = torch.nn.functional.pad(self.keys, missing)
        self.values = torch.nn.functional.pad(self.values, missing)
        self.capacity = capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity


class LanguageModel(Protocol):
    """The layers of a causal language model, and its head for a few tokens at a time."""

    device: torch.device
    layers: int

    def hidden(
        self, tokens_UT: Tensor, positions_UT: Tensor, visible_UTK: Tensor | None, cache: list[AppendOnlyLayer] | None
    ) -> Tensor:
        """The last hidden states, [U, T, H].

        Args:
            tokens_UT: token ids; int64.
            positions_UT: the position number of each; int64.
            visible_UTK: what each token sees; bool. None: those before it and itself, with nothing in the cache.
            cache: a layer each; the tokens' keys and values are added. None to keep nothing.
        """

    def logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """The logits of these tokens alone; float32 [..., V] for hidden states [..., H]."""

    def normaliser(self, hidden_UBH: Tensor) -> Tensor:
        """The log-sum-exp of the whole vocabulary's logits; float32 [U, B, 1]."""


class HuggingFaceModel:
    """Any decoder-only Hugging Face model that takes a 4-D attention mask and explicit position ids (sdpa).

    Args:
        model: a causal language model; put in eval mode.

    Raises:
        DecoderUnusable: its logits are not a linear map of its last hidden state (soft-capped or rescaled logits), so
            that they cannot be computed for a few tokens alone.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self.device: torch.device = next(model.parameters()).device
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self._check_head()

    def hidden(
        self, tokens_UT: Tensor, positions_UT: Tensor, visible_UTK: Tensor | None, cache: list[AppendOnlyLayer] | None
    ) -> Tensor:
        """See `LanguageModel`."""
        states: Tensor = self._model.base_model(
            input_ids=tokens_UT,
            position_ids=positions_UT,
            attention_mask=None if visible_UTK is None else visible_UTK[:, None],
            past_key_values=None if cache is None else Cache(layers=cache),
            use_cache=cache is not None,
        ).last_hidden_state
        return states

    def logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """See `LanguageModel`."""
        head = self._model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[token_ids]
        return torch.nn.functional.linear(hidden, head.weight[token_ids], bias).float()

    def normaliser(self, hidden_UBH: Tensor) -> Tensor:
        """See `LanguageModel`."""
        head = self._model.get_output_embeddings()
        return torch.stack([head(rows).float().logsumexp(-1, keepdim=True) for rows in hidden_UBH])

    @torch.inference_mode()
    def _check_head(self) -> None:
        probe = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        ids = torch.arange(8, device=self.device)
        hidden = self._model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        expected = self._model(input_ids=probe, use_cache=False).logits[..., ids].float()
        require_plain_head(type(self._model).__name__, self.logits(hidden, ids), expected, _HEAD_TOLERANCE)


def require_plain_head(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare logits that were computed for a few tokens alone with the model's own.

    Args:
        name: of the model.
        found, expected: float32, the same shape.
        tolerance: of the largest expected one, where that is above 1.

    Raises:
        DecoderUnusable: they differ.
    """
    difference = (found - expected).abs().max().item()
    if not difference <= tolerance * max(1.0, expected.abs().max().item()):
        raise DecoderUnusable(
            f"{name}: its logits are not a plain projection of the last hidden state "
            f"(difference {difference:.3g}); models that cap or rescale logits are not supported"
        )
