"""What every collaborative encoder can do: item vectors, a state after each item of a history, and scores of all items.

An encoder reads histories, never users, so anyone with one item can be scored, and every prefix of a history. Its item
vectors are what item codes are learned from, its opinion is what the language model is distilled from, and its ranking
is a row of the evaluation.

Shapes: B sequences, T items (padded on the right with -1), D vector size, N items.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import EncoderConfig

PADDING = -1


class Histories(Protocol):
    """Item indices of many histories, each oldest first; int32."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.int32]: ...


class CollaborativeEncoder(nn.Module, ABC):
    """Scores the next item of a history against every item.

    Attributes:
        config: the settings it was made with.
        max_length: items of a history it reads, None for all.
    """

    config: EncoderConfig
    max_length: int | None = None

    @property
    def kind(self) -> str:
        """Its name in recipes, bundles and tables."""
        return self.config.kind

    @abstractmethod
    def vectors(self) -> Tensor:
        """What it knows of each item; [N, D]."""

    @abstractmethod
    def append(self, vectors_MD: Tensor) -> None:
        """Let it score M more items, which these vectors stand for."""

    @abstractmethod
    def forward(self, items_BT: Tensor) -> Tensor:
        """State after each item, from it and those before it alone; [B, T, D], or whatever else `scores` reads.

        T is at most `max_length`.
        """

    @abstractmethod
    def scores(self, states: Tensor) -> Tensor:
        """Logits of every item; [..., N]."""

    def logits_after(self, items_BT: Tensor, after_BT: Tensor) -> Tensor:
        """Logits of every item after the marked items of histories, row by row; [P, N] for P marks."""
        return self.scores(self(items_BT)[after_BT])

    @torch.no_grad()
    def likelihoods(self, items_BT: Tensor) -> Tensor:
        """How likely each item was at the place of every item that is no padding, row by row; float32 [P, N].

        Up to a factor of each row, whose largest number is 1. First items, which nothing comes before, and those beyond
        `max_length` have rows of zeros.
        """
        read_BT, real_BT = items_BT[:, : self.max_length], items_BT != PADDING
        read, length = read_BT.shape[1], items_BT.shape[1]
        # What is said after an item is about the next one.
        after_BT = functional.pad(real_BT[:, 1 : read + 1], (0, 1))[:, :read]
        place_BT = functional.pad(after_BT, (1, length - read))[:, :length]
        logits = self.logits_after(read_BT, after_BT).float()
        likely = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
        all_PN = likely.new_zeros(int(real_BT.sum()), likely.shape[1])
        all_PN[place_BT[real_BT]] = likely
        return all_PN

    @torch.inference_mode()
    def next_item_logits(self, histories: Histories) -> Tensor:
        """Logits of every item after each whole history; [len(histories), N]. No history may be empty."""
        self.eval()
        newest = [histories[i] for i in range(len(histories))]
        if self.max_length is not None:
            newest = [history[-self.max_length :] for history in newest]
        device = self.vectors().device
        items_BT = torch.from_numpy(pad(newest).astype(np.int64)).to(device)
        last_B1 = torch.tensor([[len(row) - 1] for row in newest], device=device)
        return self.logits_after(items_BT, torch.arange(items_BT.shape[1], device=device) == last_B1)


def without_seen(scores_PN: Tensor, items_BT: Tensor, after_BT: Tensor) -> Tensor:
    """Scores after the marked items of histories (see `CollaborativeEncoder.logits_after`), lowest for items seen."""
    rows_P, places_P = after_BT.nonzero(as_tuple=True)
    so_far_PT = torch.arange(items_BT.shape[1], device=items_BT.device) <= places_P[:, None]
    seen_PT = torch.where(so_far_PT & (items_BT[rows_P] != PADDING), items_BT[rows_P], items_BT[rows_P, :1])
    return scores_PN.scatter(1, seen_PT, torch.finfo(scores_PN.dtype).min)


def pad(rows: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Stack rows of unequal length, padded on the right; int32 [B, T]."""
    padded = np.full((len(rows), max(len(row) for row in rows)), PADDING, dtype=np.int32)
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return padded
