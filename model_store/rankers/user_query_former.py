"""SAILRec's user side: learned queries read a user's collaborative vectors and become one soft token each.

It is BLIP-2's Q-Former (arXiv:2301.12597) reduced to three queries. The rows that are read are the user's own vector
and those of the items that were liked last; from one row alone, cross-attention could only copy.

Shapes: B users, R rows of the longest, T queries, D size of the vectors, W width, H hidden size.
"""

import torch
from torch import Tensor, nn


class UserQueryFormer(nn.Module):
    """From collaborative vectors to soft tokens.

    Args:
        size: D.
        hidden: H.
        queries: T.
        width: W, divisible by the heads.
        blocks: of self-attention among queries, cross-attention to the rows, and a feed-forward network of 4 W.
        heads: of both attentions.
        norm: length that tokens have at the start.
    """

    def __init__(self, size: int, hidden: int, queries: int, width: int, blocks: int, heads: int, norm: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.rows = nn.Linear(size, width)
        self.of_user = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.output = nn.Sequential(nn.Linear(width, hidden), scaled_norm(hidden, norm))

    def forward(self, rows_BRD: Tensor, real_BR: Tensor) -> Tensor:
        """Tokens [B, T, H].

        Args:
            rows_BRD: the user's vector first, and then items in any order.
            real_BR: bool, False for padding; the first is always real.
        """
        rows_BRW = self.rows(rows_BRD)
        rows_BRW = torch.cat([rows_BRW[:, :1] + self.of_user, rows_BRW[:, 1:]], dim=1)
        states_BTW = self.queries.expand(len(rows_BRD), -1, -1)
        for block in self.blocks:
            states_BTW = block(states_BTW, rows_BRW, ~real_BR)
        tokens: Tensor = self.output(states_BTW)
        return tokens


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.among = nn.MultiheadAttention(width, heads, batch_first=True)
        self.across = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, states: Tensor, rows: Tensor, ignored_BR: Tensor) -> Tensor:
        own = self.norms[0](states)
        states = states + self.among(own, own, own, need_weights=False)[0]
        own = self.norms[1](states)
        states = states + self.across(own, rows, rows, key_padding_mask=ignored_BR, need_weights=False)[0]
        return states + self.feed(self.norms[2](states))  # type: ignore[no-any-return]


def scaled_norm(hidden: int, norm: float) -> nn.LayerNorm:
    """A layer norm whose vectors have this length at the start; the gain is learned."""
    layer = nn.LayerNorm(hidden)
    nn.init.constant_(layer.weight, norm * hidden**-0.5)
    return layer
