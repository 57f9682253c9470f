"""Histories in batches of like length, the same for every sequence model.

Shapes: B sequences, T items (padded on the right with -1).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model_store.collaborative.encoder import pad
from offline.leave_one_out import Histories


def windows(histories: Histories, length: int) -> list[NDArray[np.int32]]:
    """Cut histories into pieces of at most `length` items, newest piece full, so that long ones train whole.

    Pieces of a single item are left out: they hold nothing to predict from.
    """
    pieces = []
    for index in range(len(histories)):
        history = histories[index]
        for end in range(len(history), 1, -length):
            piece = history[max(0, end - length) : end]
            if len(piece) > 1:
                pieces.append(piece)
    return pieces


def batches(
    pieces: list[NDArray[np.int32]], items_per_batch: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int32]]:
    """Yield every piece once, in random order, as int32 [B, T] with B * T about `items_per_batch`."""
    lengths = np.array([len(piece) for piece in pieces])
    # Noise on the length mixes neighbours between epochs and costs little padding.
    order = np.argsort(lengths * (1 + 0.1 * rng.random(len(lengths))), kind="stable")
    groups: list[list[int]] = []
    current: list[int] = []
    longest = 0
    for index in order.tolist():
        longest = max(longest, int(lengths[index]))
        if current and longest * (len(current) + 1) > items_per_batch:
            groups.append(current)
            current, longest = [], int(lengths[index])
        current.append(index)
    if current:
        groups.append(current)
    for group in rng.permutation(len(groups)):
        yield pad([pieces[index] for index in groups[group]])


def leave_out(pieces: list[NDArray[np.int32]], share: float, rng: np.random.Generator) -> list[NDArray[np.int32]]:
    """Pieces less a random share of their items; those left with one item go too."""
    if share == 0:
        return pieces
    kept = [piece[rng.random(len(piece)) >= share] for piece in pieces]
    return [piece for piece in kept if len(piece) > 1]


def batches_per_epoch(pieces: list[NDArray[np.int32]], items_per_batch: int, item_dropout: float) -> int:
    """How many batches an epoch has, give or take a few; learning rates fall over all of them."""
    rng = np.random.default_rng(0)
    return sum(1 for _ in batches(leave_out(pieces, item_dropout, rng), items_per_batch, rng))
