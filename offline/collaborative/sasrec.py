"""Collaborative item vectors: SASRec trained with cross-entropy over the whole catalogue.

Follows Kang and McAuley, "Self-Attentive Sequential Recommendation" (arXiv:1808.09781). What we changed: full-softmax
cross-entropy in place of one sampled negative (the largest single gain, see Petrov and Macdonald, arXiv:2308.07192),
pre-norm blocks with GELU, and positions counted from the newest item, so that short histories look like the end of
long ones. With `text_features` an item's vector is its own plus a small network's reading of its text vector, as
UniSRec's transductive setting adds the two (Hou et al., arXiv:2206.05941); after training the sum is the table.
With `repeats` a logit is added to items that were taken before, one learned for each number of steps ago: a product of
vectors puts what was just taken on top, whether people buy things twice or not.

Shapes: B sequences, T items, D vector size, N items, P supervised positions, X text size.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from offline.collaborative.encoder import CollaborativeEncoder, EncoderConfig
from offline.collaborative.validation import BestEpoch, validation_metrics
from offline.leave_one_out import EvaluationCases, Histories
from offline.progress import progress
from offline.training_batches import PADDING, batches, windows

_INIT_STD = 0.02
_REPEAT_SCALE = 30.0
"""What repeat logits are learned in units of: at a learning rate made for vectors they would not get anywhere."""
_TEXT_DIRECTIONS = 128
"""Principal directions of the text vectors that are read, and width of the network that reads them."""


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(EncoderConfig):
    """Settings of the sequential encoder."""

    kind: str = field(default="sasrec", init=False)
    epochs: int = 20
    learning_rate: float = 3e-3
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    max_length: int = 50
    """Items of a history it reads."""
    items_per_batch: int = 1024
    weight_decay: float = 0.1
    text_features: bool = False
    """Whether item vectors also read the items' text."""
    repeats: bool = False
    """Whether it learns how much likelier an item becomes by having been taken before, and how long ago."""


class SASRec(CollaborativeEncoder):
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

    def vectors(self) -> Tensor:
        return self.item_vectors.weight

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


class _TextSASRec(SASRec):
    """A SASRec in training whose item vectors read the items' text."""

    def __init__(self, items: int, config: SASRecConfig, text_NX: Tensor) -> None:
        super().__init__(items, config)
        centred = text_NX - text_NX.mean(dim=0)
        left, strength, _ = torch.linalg.svd(centred, full_matrices=False)
        kept = min(_TEXT_DIRECTIONS, len(strength))
        # Variance 1/4 along the strongest direction: a fresh network's output is then as small as a fresh vector.
        scaled = left[:, :kept] * strength[:kept] * (0.5 * math.sqrt(items) / strength[0])
        self.register_buffer("text_NX", scaled, persistent=False)
        last = nn.Linear(_TEXT_DIRECTIONS, config.size)
        nn.init.normal_(last.weight, std=_INIT_STD)
        nn.init.zeros_(last.bias)
        self.read_text = nn.Sequential(nn.Linear(kept, _TEXT_DIRECTIONS), nn.GELU(), last)

    def vectors(self) -> Tensor:
        return self.item_vectors.weight + self.read_text(self.text_NX)  # type: ignore[no-any-return]

    @torch.no_grad()
    def as_plain(self) -> SASRec:
        """The same encoder with the sums as its item vectors."""
        plain = SASRec(len(self.item_vectors.weight), self.config)
        shared = {name: value for name, value in self.state_dict().items() if not name.startswith("read_text.")}
        plain.load_state_dict({**shared, "item_vectors.weight": self.vectors()})
        return plain.to(self.item_vectors.weight.device)


def train_sasrec(
    train: Histories,
    validation: EvaluationCases,
    items: int,
    config: SASRecConfig,
    seed: int,
    device: torch.device | str = "cpu",
    text_NX: NDArray[np.float32] | None = None,
) -> tuple[SASRec, dict[str, float]]:
    """Train on `train`, keep the epoch with the best NDCG@10 on `validation`; returns it and its metrics.

    `text_NX` are the items' text vectors, which `text_features` asks for.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    if config.text_features:
        assert text_NX is not None, "text_features needs the items' text vectors"
        model: SASRec = _TextSASRec(items, config, torch.from_numpy(text_NX)).to(device)
    else:
        model = SASRec(items, config).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
    )
    pieces = windows(train, config.max_length + 1)
    steps_per_epoch = sum(1 for _ in batches(pieces, config.items_per_batch, np.random.default_rng(seed)))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * (steps_per_epoch + 2))
    best = BestEpoch()
    with progress("collaborative encoder", config.epochs, "epochs") as advance:
        for epoch in range(config.epochs):
            model.train()
            for batch in batches(pieces, config.items_per_batch, rng):
                items_BT = torch.from_numpy(batch.astype(np.int64)).to(device)
                targets_BT = items_BT[:, 1:]
                real_BT = targets_BT != PADDING
                logits_PN = model.logits_of(model.vectors(), items_BT[:, :-1], real_BT)
                loss = functional.cross_entropy(logits_PN, targets_BT[real_BT])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                scheduler.step()
            # Before the last quarter of a cosine schedule no epoch has been the best one.
            if epoch + 1 >= config.epochs * 3 // 4:
                best.offer(model, validation_metrics(model, validation, config.validation_users, seed))
            advance(1, str(best))
    best.restore(model)
    if isinstance(model, _TextSASRec):
        model = model.as_plain()
    return model.eval(), best.metrics
