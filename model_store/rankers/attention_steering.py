"""Bends what the layers of any Hugging Face model attend to: a bias on the keys that are soft tokens, by depth.

    A_l[p, j] = softmax_j(q_p . k_j * scale + b_l * soft_j)

It is an attention implementation of its own name in transformers' interface: scaled dot-product attention, with the
layer's bias added to its mask while a steering is in force, and nothing else at all other times. It knows which keys
are soft by their place, so it works behind a cached prefix too, and for every query, those of soft tokens included.

Shapes: B prompts, Q queries, K keys (cached ones included), L layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_IMPLEMENTATION = "tessera_steered"


@dataclass(eq=False)
class _Pass:
    """One forward pass under steering."""

    soft_BK: Tensor
    any_soft: bool
    biases: Sequence[float]
    shares: dict[int, Tensor] | None
    reached: set[int] = field(default_factory=set)


_pass: ContextVar[_Pass | None] = ContextVar("steered_pass", default=None)


class AttentionSteering:
    """Biases of a model's layers; a `soft_prompt_model.Steering`.

    Args:
        model: its attention becomes the steered one, which is the plain one outside of `over`.
        biases: one for each layer; a layer with 0 computes exactly what it would without steering.

    Raises:
        ValueError: there are more or fewer biases than layers.
    """

    def __init__(self, model: Any, biases: Sequence[float]) -> None:
        layers = model_layers(model)
        if len(biases) != layers:
            raise ValueError(f"{len(biases)} biases for {layers} layers")
        self.biases = tuple(float(bias) for bias in biases)
        self._shares: dict[int, Tensor] | None = None
        model.set_attn_implementation(_IMPLEMENTATION)

    @contextmanager
    def over(self, soft_BK: Tensor) -> Iterator[None]:
        """Steer one forward pass over keys of which these are soft tokens.

        Raises:
            ValueError: attention of some layer did not go through transformers' interface, or had other keys.
        """
        now = _Pass(soft_BK, bool(soft_BK.any()), self.biases, self._shares)
        token = _pass.set(now)
        try:
            yield
        finally:
            _pass.reset(token)
        if missed := sorted(set(range(len(self.biases))) - now.reached):
            raise ValueError(f"layers {missed} do not attend through transformers' attention interface")

    @contextmanager
    def recording(self) -> Iterator[dict[int, Tensor]]:
        """Note in every forward pass within it, by layer, the share of each query's attention that soft tokens have.

        Each is float32 [B, Q], the mean over heads; a pass overwrites those of the one before.
        """
        self._shares = {}
        try:
            yield self._shares
        finally:
            self._shares = None


def model_layers(model: Any) -> int:
    """L."""
    return int(model.config.get_text_config().num_hidden_layers)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    now = _pass.get()
    if now is not None:
        layer = int(module.layer_idx)
        if now.soft_BK.shape != (key.shape[0], key.shape[2]):
            raise ValueError(f"layer {layer} has keys {key.shape[0], key.shape[2]}, not {tuple(now.soft_BK.shape)}")
        now.reached.add(layer)
        if now.any_soft and now.biases[layer]:
            attention_mask = _biased(attention_mask, now.soft_BK, now.biases[layer], query)
        if now.shares is not None:
            now.shares[layer] = _soft_share(query, key, attention_mask, now.soft_BK, kwargs.get("scaling"))
    attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return attended


def _biased(mask: Tensor | None, soft_BK: Tensor, bias: float, query: Tensor) -> Tensor:
    """The mask as numbers that are added to the products, with the bias in it; [B, 1, Q, K]."""
    added = soft_BK[:, None, None, :].to(query.dtype) * bias
    if mask is not None and mask.dtype != torch.bool:
        return mask + added
    allowed = _causal(query.shape[2], soft_BK) if mask is None else mask
    # Not -inf: rows of padding attend to nothing, and would be no numbers.
    return torch.where(allowed, added, torch.finfo(query.dtype).min)


def _causal(queries: int, soft_BK: Tensor) -> Tensor:
    keys = soft_BK.shape[1]
    return torch.ones(queries, keys, dtype=torch.bool, device=soft_BK.device).tril(keys - queries)


def _soft_share(query: Tensor, key: Tensor, mask: Tensor | None, soft_BK: Tensor, scaling: float | None) -> Tensor:
    keys = repeat_kv(key, query.shape[1] // key.shape[1])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    products = query.detach().float() @ keys.detach().float().transpose(2, 3) * scale
    added = _biased(mask, soft_BK, 0.0, query).float()
    shares_BHQ = ((products + added).softmax(-1) * soft_BK[:, None, None, :]).sum(-1)
    shares_BQ: Tensor = shares_BHQ.mean(1)
    return shares_BQ


AttentionInterface.register(_IMPLEMENTATION, _attend)
AttentionMaskInterface.register(_IMPLEMENTATION, sdpa_mask)
