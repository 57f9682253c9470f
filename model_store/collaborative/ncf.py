"""NCF: a product of vectors and a small network, added to one score.

Follows He et al., "Neural Collaborative Filtering" (arXiv:1708.05031), its NeuMF: half of a vector is multiplied with
the other side's, half goes through a network with it. What we changed: a user is the mean of the vectors of their
items, as in matrix factorization here (see `running_mean`), so that nobody has to be known; the network has one hidden
layer, which lets all items be scored without a pass for each.

Shapes: B sequences, T items (padded on the right with -1), D vector size, N items, M of them, H hidden size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import NCFConfig
from model_store.collaborative.encoder import PADDING, Histories, without_seen
from model_store.collaborative.table_encoder import TableEncoder

_INIT_STD = 0.1
_PRODUCTS_AT_ONCE = 2**24


class NCF(TableEncoder):
    """Item vectors, the weights of a product, and a network of one hidden layer."""

    config: NCFConfig

    def __init__(self, items: int, config: NCFConfig) -> None:
        super().__init__()
        self.config = config
        half = config.size // 2
        self.item_vectors = nn.Embedding(items, config.size)
        self.of_states = nn.Linear(config.size - half, config.hidden)
        self.of_items = nn.Linear(config.size - half, config.hidden, bias=False)
        self.product_weights = nn.Parameter(torch.ones(half))
        self.network_weights = nn.Parameter(torch.empty(config.hidden).normal_(std=_INIT_STD))
        nn.init.normal_(self.item_vectors.weight, std=_INIT_STD)

    def forward(self, items_BT: Tensor) -> Tensor:
        real_BT1 = (items_BT != PADDING).unsqueeze(-1)
        sums_BTD = (functional.embedding(items_BT.clamp(min=0), self.item_vectors.weight) * real_BT1).cumsum(1)
        return sums_BTD / real_BT1.cumsum(1).clamp(min=1)

    def scores(self, states: Tensor) -> Tensor:
        return self.scores_of(states, self.vectors())

    def scores_of(self, states: Tensor, vectors_MD: Tensor) -> Tensor:
        """Logits of the items that these vectors stand for; [..., M]."""
        half = len(self.product_weights)
        of_products = (states[..., :half] * self.product_weights) @ vectors_MD[:, :half].T
        by_states, by_items_MH = self.of_states(states[..., half:]).unsqueeze(-2), self.of_items(vectors_MD[:, half:])
        step = max(1, _PRODUCTS_AT_ONCE // max(1, by_states.numel()))
        pieces = [functional.relu(by_states + piece) @ self.network_weights for piece in by_items_MH.split(step)]
        return of_products + torch.cat(pieces, dim=-1)

    def pair_scores(self, states_BD: Tensor, vectors_BD: Tensor) -> Tensor:
        """The logit of each state and the item beside it; [B]."""
        half = len(self.product_weights)
        of_products = (states_BD[:, :half] * vectors_BD[:, :half]) @ self.product_weights
        hidden_BH = functional.relu(self.of_states(states_BD[:, half:]) + self.of_items(vectors_BD[:, half:]))
        return of_products + hidden_BH @ self.network_weights

    @torch.inference_mode()
    def next_item_logits(self, histories: Histories) -> Tensor:
        # Whole histories may be long, and only their last state is asked for.
        rows = [torch.from_numpy(histories[i].astype("int64")) for i in range(len(histories))]
        vectors = self.vectors()
        means = [vectors[row.to(vectors.device)].mean(0) for row in rows]
        return self.scores(torch.stack(means))

    def logits_after(self, items_BT: Tensor, after_BT: Tensor) -> Tensor:
        # Training never asks for an item that the state is made of; what was seen is not what comes next.
        return without_seen(super().logits_after(items_BT, after_BT), items_BT, after_BT)
