"""SASRec: a causal transformer over the items of a history.

Follows Kang and McAuley, "Self-Attentive Sequential Recommendation" (arXiv:1808.09781). What we changed: pre-norm
blocks with GELU, and positions counted from the newest item, so that short histories look like the end of long ones.
With `repeats` a logit is added to items that were taken before, one learned for each number of steps ago: a product of
vectors puts what was just taken on top, whether people buy things twice or not.

Shapes: B sequences, T items, P marked positions, D vector size, N items.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import SASRecConfig
from model_store.collaborative.encoder import PADDING
from model_store.collaborative.table_encoder import TableEncoder

_INIT_STD = 0.02
_REPEAT_SCALE = 30.0
"""What repeat logits are learned in units of: at a learning rate made for vectors they would not get anywhere."""


class SASRec(TableEncoder):
    """A causal transformer over item vectors; a state's product with an item's vector is its score."""

    config: SASRecConfig

    def __init__(self, items: int, config: SASRecConfig) -> None:
        super().__init__()
        self.config = config
        self.max_length = config.max_length
        self.item_vectors = nn.Embedding(items, config.size)
        self.positions = nn.Embedding(config.max_length, config.size)
        layer = nn.TransformerEncoderLayer(
            config.size,
            config.heads,
            4 * config.size,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(config.size)
        self.dropout = nn.Dropout(config.dropout)
        if config.repeats:
            self.repeat_logits = nn.Parameter(torch.zeros(config.max_length))
        nn.init.normal_(self.item_vectors.weight, std=_INIT_STD)
        nn.init.normal_(self.positions.weight, std=_INIT_STD)

    def forward(self, items_BT: Tensor) -> Tensor:
        return self.states(items_BT, self.vectors())

    def states(self, items_BT: Tensor, vectors_ND: Tensor) -> Tensor:
        """State after each item, which these vectors stand for; [B, T, D]."""
        length = items_BT.shape[1]
        real_BT = items_BT != PADDING
        newest_first_BT = (real_BT.sum(1, keepdim=True) - 1 - torch.arange(length, device=items_BT.device)).clamp(min=0)
        states = functional.embedding(items_BT.clamp(min=0), vectors_ND) * math.sqrt(self.config.size)
        states = self.dropout(states + self.positions(newest_first_BT))
        causal = nn.Transformer.generate_square_subsequent_mask(length, device=items_BT.device)
        return self.norm(self.blocks(states, mask=causal, is_causal=True))  # type: ignore[no-any-return]

    def scores(self, states: Tensor) -> Tensor:
        return states @ self.vectors().T

    def logits_after(self, items_BT: Tensor, after_BT: Tensor) -> Tensor:
        return self.logits_of(self.vectors(), items_BT, after_BT)

    def logits_of(self, vectors_ND: Tensor, items_BT: Tensor, after_BT: Tensor) -> Tensor:
        """`logits_after`, where these vectors stand for the items."""
        logits_PN = self.states(items_BT, vectors_ND)[after_BT] @ vectors_ND.T
        if not self.config.repeats:
            return logits_PN
        rows_P, places_P = after_BT.nonzero(as_tuple=True)
        items_PT = items_BT[rows_P]
        ago_PT = places_P[:, None] - torch.arange(items_BT.shape[1], device=items_BT.device)
        taken_PT = (ago_PT >= 0) & (items_PT != PADDING)
        # Every time it was taken counts. In place: a copy of all logits would cost as much as they did.
        logits_PT = torch.where(taken_PT, _REPEAT_SCALE * self.repeat_logits[ago_PT.clamp(min=0)], 0)
        return logits_PN.scatter_add_(1, items_PT.clamp(min=0), logits_PT)
