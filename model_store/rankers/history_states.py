"""What a collaborative encoder makes of users: its state after their whole history."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.collaborative.encoder import CollaborativeEncoder, pad

_HISTORIES_A_PASS = 256


@torch.no_grad()
def history_states(encoder: CollaborativeEncoder, histories: Sequence[NDArray[np.int32]]) -> Tensor:
    """The state after each history, zeros after an empty one; [B, D], without gradients."""
    vectors = encoder.vectors()
    found = torch.zeros(len(histories), vectors.shape[1], device=vectors.device)
    known = [row for row, history in enumerate(histories) if len(history)]
    for start in range(0, len(known), _HISTORIES_A_PASS):
        rows = known[start : start + _HISTORIES_A_PASS]
        # Without a limit every item counts alike, and a long history would only be slow.
        read = [histories[row] if encoder.max_length is None else histories[row][-encoder.max_length :] for row in rows]
        states_BTD = encoder(torch.from_numpy(pad(read).astype(np.int64)).to(vectors.device))
        lasts = torch.tensor([len(history) - 1 for history in read], device=vectors.device)
        every = torch.arange(len(rows), device=vectors.device)
        found[torch.tensor(rows, device=vectors.device)] = states_BTD[every, lasts].float()
    return found
