"""Tables of a matrix factorization: a vector for each user and each item that it was trained with.

Somebody who was not there has the mean of the users' vectors, and a new item the mean of the items'.

Shapes: U users, N items, D vector size, B of a batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_INIT_STD = 0.01
"""On the labelled films a start at 0.1 costs .15 AUC: rows that few samples pull at keep their noise."""


class FactorTables(nn.Module):
    """Vectors of users and items; a product of two is how much the user likes the item.

    Args:
        users: U.
        items: N.
        size: D.
    """

    def __init__(self, users: int, items: int, size: int) -> None:
        super().__init__()
        self.users = nn.Embedding(users, size)
        self.items = nn.Embedding(items, size)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=_INIT_STD)
        self.register_buffer("user_keys", torch.zeros(users, dtype=torch.int64))
        self.user_keys: Tensor

    def name_users(self, keys: Sequence[int]) -> None:
        """Say whose vectors the rows are; all keys differ and ascend.

        Raises:
            ValueError: they do not.
        """
        named = torch.tensor(keys, dtype=torch.int64)
        if named.shape != self.user_keys.shape or bool((named[1:] <= named[:-1]).any()):
            raise ValueError(f"{len(keys)} keys for {len(self.user_keys)} users; they must differ and ascend")
        self.user_keys.copy_(named)

    def rows_of(self, keys: Sequence[int | None]) -> Tensor:
        """The rows of users, -1 for those who have none; int64 [B]."""
        asked = torch.tensor([key or 0 for key in keys], dtype=torch.int64, device=self.user_keys.device)
        known = torch.tensor([key is not None for key in keys], device=self.user_keys.device)
        rows = torch.searchsorted(self.user_keys, asked).clamp(max=len(self.user_keys) - 1)
        return torch.where(known & (self.user_keys[rows] == asked), rows, -1)

    def user_vectors(self, rows_B: Tensor) -> Tensor:
        """[B, D]; the users' mean where a row is -1."""
        return _or_mean(self.users.weight, rows_B)

    def item_vectors(self, items_B: Tensor) -> Tensor:
        """[B, D]; the items' mean for an index beyond the table."""
        return _or_mean(self.items.weight, torch.where(items_B < len(self.items.weight), items_B, -1))

    def forward(self, rows_B: Tensor, items_B: Tensor) -> Tensor:
        """The logit that each user likes the item beside it; [B]."""
        return (self.user_vectors(rows_B) * self.item_vectors(items_B)).sum(-1)


def _or_mean(table: Tensor, rows_B: Tensor) -> Tensor:
    own = nn.functional.embedding(rows_B.clamp(min=0), table)
    return own if bool((rows_B >= 0).all()) else torch.where((rows_B >= 0)[:, None], own, table.mean(0))
