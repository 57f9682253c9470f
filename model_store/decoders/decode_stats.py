"""What decoding cost, in plain numbers: told to whoever observes a decoder, counted by whoever likes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["render", "prompt", "beams", "candidates", "select"]
"""Rendering the prompts; the pass over them; those over beams; the one over prompts and given candidates together;
scoring the children of beams and choosing among them, masks included."""


@dataclass(frozen=True)
class DecodeStats:
    """What one batch of decodes cost.

    Attributes:
        seconds: spent in each stage; stages that did not happen are missing.
        steps: forward passes of each stage.
        masked_shares: one for each beam search: of the children of all beams, the share that filters and exclusions
            closed.
    """

    seconds: dict[Stage, float]
    steps: dict[Stage, int]
    masked_shares: list[float]


Observer = Callable[[DecodeStats], None]
"""Called once for every batch, in the thread that decoded it. Must be quick and must not raise."""
