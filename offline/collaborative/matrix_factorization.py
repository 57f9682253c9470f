"""Matrix factorization: the smallest collaborative encoder, and the measure of what a graph adds.

A user is the mean of the vectors of the items they have (asymmetric factorization, Paterek 2007; FISM, Kabbur et al.
2013), so that a user never seen in training is nothing special. What we changed: one table of vectors for both sides,
cosines in place of products, and a softmax over sampled negatives.

Shapes: N items, D vector size.
"""

import torch
from torch import Tensor, nn

from model_store.collaborative.configs import MatrixFactorizationConfig
from offline.collaborative.item_vector_training import ItemVectorModel

_INIT_STD = 0.1


class MatrixFactorization(ItemVectorModel):
    """A vector an item, nothing else."""

    def __init__(self, items: int, config: MatrixFactorizationConfig) -> None:
        super().__init__()
        self.items = nn.Parameter(torch.empty(items, config.size).normal_(std=_INIT_STD))

    def item_vectors(self) -> Tensor:
        return self.items
