"""GRU4Rec: a recurrent network over the items of a history.

Follows Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (arXiv:1511.06939). What we
changed: histories instead of sessions, the same table for what is read and what is scored, and the training of every
sequential encoder here (see `offline.collaborative.train_next_item`).

Shapes: B sequences, T items (padded on the right with -1), D vector size, N items.
"""

from torch import Tensor, nn

from model_store.collaborative.configs import GRU4RecConfig
from model_store.collaborative.sequence_encoder import SequenceEncoder


class GRU4Rec(SequenceEncoder):
    """Gated recurrent units over item vectors."""

    config: GRU4RecConfig

    def __init__(self, items: int, config: GRU4RecConfig) -> None:
        super().__init__(items, config)
        self.gru = nn.GRU(config.size, config.hidden, config.layers, batch_first=True)
        self.output = nn.Linear(config.hidden, config.size)

    def forward(self, items_BT: Tensor) -> Tensor:
        states_BTH, _ = self.gru(self.read(items_BT))
        return self.output(self.dropout(states_BTH))  # type: ignore[no-any-return]
