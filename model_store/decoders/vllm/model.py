"""A model that vLLM has loaded, as tree attention sees it: vLLM's layers and weights, our attention.

vLLM writes every model as layers over a flat row of tokens, which meet only in its attention layers. While a tree pass
runs, these layers attend by a mask of ours to keys and values of our own; vLLM's paged cache is not touched. So every
decoder-only architecture that vLLM runs is decoded, quantised or not, without a second copy of its weights.

Imported in vLLM's own processes only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType

from model_store.decoders.language_model import AppendOnlyLayer, require_plain_head
from model_store.errors import DecoderUnusable

_HEAD_TOLERANCE_FLOAT32 = 1e-3
# Logits of size 10 in bfloat16 are off by up to 0.04, on both sides.
_HEAD_TOLERANCE_REDUCED = 0.1


class VLLMModel:
    """The model of a vLLM worker (see `language_model.LanguageModel`).

    Args:
        worker: vLLM's, which holds one model whole.
        adapter: what every pass goes with (see `adapters.adapter_of`), or None.

    Raises:
        DecoderUnusable: the model attends in a way that a mask does not express, is split over several workers, or its
            logits are not a plain projection of the last hidden state.
    """

    def __init__(self, worker: Any, adapter: Any = None) -> None:
        self._runner, self._adapter = worker.model_runner, adapter
        self._config = worker.vllm_config
        self._model = worker.model_runner.get_model()
        self.device: torch.device = worker.device
        layers = self._config.compilation_config.static_forward_context
        self._attention = list(layers.values())
        unlike = [name for name, layer in layers.items() if not _is_plain(layer)]
        if unlike:
            raise DecoderUnusable(
                f"{unlike[0]}: not causal attention over the whole prompt, which is all a tree pass does"
            )
        if self._config.parallel_config.world_size > 1:
            raise DecoderUnusable("the model is split over several workers; a tree pass needs it whole in one")
        self.layers = len(self._attention)
        self._check_head()

    def hidden(
        self, tokens_UT: Tensor, positions_UT: Tensor, visible_UTK: Tensor | None, cache: list[AppendOnlyLayer] | None
    ) -> Tensor:
        """See `LanguageModel`."""
        users, length = tokens_UT.shape
        tokens, positions = tokens_UT.flatten(), positions_UT.flatten()
        if self._adapter is not None:
            number = self._adapter.lora_int_id
            self._runner._set_active_loras((number,), (number,) * len(tokens), {self._adapter})
        with (
            _attending(self._attention, users, visible_UTK, cache),
            # What vLLM compiled knows its own attention only.
            set_forward_context(None, self._config, num_tokens=users * length, skip_compiled=True),
        ):
            hidden: Tensor = self._model(input_ids=tokens, positions=positions)
        return hidden.view(users, length, -1)

    def logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """See `LanguageModel`."""
        head = self._model.lm_head
        bias = getattr(head, "bias", None)
        return functional.linear(hidden, head.weight[token_ids], None if bias is None else bias[token_ids]).float()

    def normaliser(self, hidden_UBH: Tensor) -> Tensor:
        """See `LanguageModel`."""
        vocabulary = torch.arange(self._config.model_config.get_vocab_size(), device=self.device)
        return torch.stack([self.logits(rows, vocabulary).logsumexp(-1, keepdim=True) for rows in hidden_UBH])

    @torch.inference_mode()
    def _check_head(self) -> None:
        zeros = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
        hidden = self.hidden(zeros, torch.arange(2, device=self.device)[None], None, None)[0]
        ids = torch.arange(8, device=self.device)
        expected = self._model.compute_logits(hidden)[:, ids].float()
        exact = hidden.dtype == torch.float32
        tolerance = _HEAD_TOLERANCE_FLOAT32 if exact else _HEAD_TOLERANCE_REDUCED
        require_plain_head(type(self._model).__name__, self.logits(hidden, ids), expected, tolerance)


def _is_plain(layer: Any) -> bool:
    return (
        isinstance(layer, Attention)
        and layer.attn_type == AttentionType.DECODER
        and layer.sliding_window is None
        and layer.kv_sharing_target_layer_name is None
        and not getattr(layer.impl, "logits_soft_cap", None)
        and getattr(layer.impl, "alibi_slopes", None) is None
        and getattr(layer.impl, "sinks", None) is None
    )


@contextmanager
def _attending(
    layers: list[Any], users: int, visible_UTK: Tensor | None, cache: list[AppendOnlyLayer] | None
) -> Iterator[None]:
    """Let these layers attend by this mask for the duration; vLLM runs nothing else meanwhile."""
    mask = None if visible_UTK is None else visible_UTK[:, None]
    for number, layer in enumerate(layers):
        layer.forward = _attention(layer, users, mask, None if cache is None else cache[number])
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _attention(
    layer: Any, users: int, mask_U1TK: Tensor | None, cache: AppendOnlyLayer | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def by_user(flat: Tensor, heads: int) -> Tensor:
        return flat.view(users, -1, heads, flat.shape[-1] // heads).transpose(1, 2)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys, values = by_user(key, layer.num_kv_heads), by_user(value, layer.num_kv_heads)
        if cache is not None:
            keys, values = cache.update(keys, values)
        attended = functional.scaled_dot_product_attention(
            by_user(query, layer.num_heads),
            keys,
            values,
            attn_mask=mask_U1TK,
            is_causal=mask_U1TK is None,
            scale=layer.impl.scale,
            enable_gqa=layer.num_kv_heads != layer.num_heads,
        )
        return attended.transpose(1, 2).reshape(query.shape[0], -1)

    return attend
