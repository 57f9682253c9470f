"""Item vectors read as a histories' running mean: how encoders without an order of their own score what comes next.

Matrix factorization, LightGCN and DCCF know users of their training data and no others. Here a user is nothing but a
history: the state after an item is the unit-length mean of the vectors of the items so far, each counting alike. So
anonymous users, new users and every prefix of a history are scored in the same way, and no user vector is kept.

Shapes: B sequences, T items (padded on the right with -1), D vector size, N items.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_store.collaborative.configs import RunningMeanConfig
from model_store.collaborative.encoder import PADDING, CollaborativeEncoder, Histories, without_seen


class RunningMeanEncoder(CollaborativeEncoder):
    """Item vectors, and the mean of those of a history as its state."""

    config: RunningMeanConfig
    item_vectors: Tensor

    def __init__(self, items: int, config: RunningMeanConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("item_vectors", torch.zeros(items, config.size))

    def vectors(self) -> Tensor:
        return self.item_vectors

    def append(self, vectors_MD: Tensor) -> None:
        self.item_vectors = torch.cat([self.item_vectors, vectors_MD])

    def forward(self, items_BT: Tensor) -> Tensor:
        real_BT1 = (items_BT != PADDING).unsqueeze(-1)
        # A sum points where the mean does.
        return functional.normalize((self.item_vectors[items_BT.clamp(min=0)] * real_BT1).cumsum(1), dim=-1)

    def scores(self, states: Tensor) -> Tensor:
        return logits(states, self.item_vectors, self.config.temperature)

    @torch.inference_mode()
    def next_item_logits(self, histories: Histories) -> Tensor:
        # Whole histories may be long, and only their last state is asked for.
        rows = [histories[i] for i in range(len(histories))]
        items = torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(self.item_vectors.device)
        offsets = torch.from_numpy(np.cumsum([0] + [len(row) for row in rows])).to(items.device)
        means = functional.embedding_bag(items, self.item_vectors, offsets, mode="mean", include_last_offset=True)
        return self.scores(functional.normalize(means, dim=-1))

    def logits_after(self, items_BT: Tensor, after_BT: Tensor) -> Tensor:
        # Nothing is nearer to a mean than what it was made of; what was seen is not what comes next.
        return without_seen(super().logits_after(items_BT, after_BT), items_BT, after_BT)


def logits(states: Tensor, vectors_ND: Tensor, temperature: float) -> Tensor:
    """Cosines of unit-length states [..., D] to item vectors, over the temperature; [..., N]."""
    return states @ functional.normalize(vectors_ND, dim=-1).T / temperature
