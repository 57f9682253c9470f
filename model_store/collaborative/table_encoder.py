"""What encoders with a learned table of item vectors have in common.

Shapes: M new items, D vector size, N items.
"""

from abc import ABC

import torch
from torch import Tensor, nn

from model_store.collaborative.encoder import CollaborativeEncoder


class TableEncoder(CollaborativeEncoder, ABC):
    """Knows each item by a row of a table.

    Attributes:
        item_vectors: the table, [N, D].
    """

    item_vectors: nn.Embedding

    def vectors(self) -> Tensor:
        return self.item_vectors.weight

    @torch.no_grad()
    def append(self, vectors_MD: Tensor) -> None:
        table_ND = torch.cat([self.item_vectors.weight, vectors_MD])
        self.item_vectors = nn.Embedding(len(table_ND), self.config.size, _weight=table_ND)
