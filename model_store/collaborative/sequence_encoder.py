"""What GRU4Rec and NextItNet have in common: a history read in its order, and one table of item vectors.

Shapes: B sequences, T items (padded on the right with -1), D vector size, N items.
"""

from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import SequentialConfig
from model_store.collaborative.table_encoder import TableEncoder

INIT_STD = 0.02


class SequenceEncoder(TableEncoder):
    """A table of item vectors; a state's product with an item's vector is its score."""

    config: SequentialConfig

    def __init__(self, items: int, config: SequentialConfig) -> None:
        super().__init__()
        self.config = config
        self.max_length = config.max_length
        self.item_vectors = nn.Embedding(items, config.size)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.item_vectors.weight, std=INIT_STD)

    def scores(self, states: Tensor) -> Tensor:
        return states @ self.vectors().T

    def read(self, items_BT: Tensor) -> Tensor:
        """The vectors of items as layers take them; some vector where there is padding; [B, T, D]."""
        vectors_BTD = functional.embedding(items_BT.clamp(min=0), self.item_vectors.weight)
        return self.dropout(vectors_BTD * self.config.size**0.5)  # type: ignore[no-any-return]
