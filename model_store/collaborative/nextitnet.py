"""NextItNet: dilated causal convolutions over the items of a history.

Follows Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation" (arXiv:1808.05163): blocks
of two convolutions, the second dilated twice as far, each behind a layer norm, with the input added. What we changed:
norms come first, and the same table serves what is read and what is scored.

Shapes: B sequences, T items (padded on the right with -1), D vector size, N items.
"""

from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import NextItNetConfig
from model_store.collaborative.sequence_encoder import SequenceEncoder


class NextItNet(SequenceEncoder):
    """Residual blocks of dilated convolutions over item vectors."""

    config: NextItNetConfig

    def __init__(self, items: int, config: NextItNetConfig) -> None:
        super().__init__(items, config)
        dilations = [4**number for number in range(config.blocks)]
        self.blocks = nn.ModuleList(_Block(config.size, config.kernel, dilation) for dilation in dilations)
        self.norm = nn.LayerNorm(config.size)

    def forward(self, items_BT: Tensor) -> Tensor:
        states_BTD = self.read(items_BT)
        for block in self.blocks:
            states_BTD = states_BTD + self.dropout(block(states_BTD))
        return self.norm(states_BTD)  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, size: int, kernel: int, dilation: int) -> None:
        super().__init__()
        # Zeros before the first item, none behind: a place sees itself and what came before.
        self.reaches = (dilation * (kernel - 1), 2 * dilation * (kernel - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, size, kernel, dilation=factor * dilation) for factor in (1, 2)
        )

    def forward(self, states_BTD: Tensor) -> Tensor:
        for norm, convolution, reach in zip(self.norms, self.convolutions, self.reaches, strict=True):
            normed_BDT = functional.relu(norm(states_BTD)).transpose(1, 2)
            states_BTD = convolution(functional.pad(normed_BDT, (reach, 0))).transpose(1, 2)
        return states_BTD
