"""What every decoder promises, whatever engine runs the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.prefix_trie import EligibleItems


def _no_items() -> NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """One constrained decode.

    Attributes:
        history: item indices, oldest first; int32 [H], H >= 1. Only the manifest's `max_history` newest are read.
        n: how many items to return.
        beam_width: beams kept at each level; raised to `n` where it is smaller.
        excluded: item indices this user must not see; int32 [X], any order, duplicates allowed.
        eligible: the catalogue-wide filter, None when every item may be shown.
    """

    history: NDArray[np.int32]
    n: int
    beam_width: int
    excluded: NDArray[np.int32] = field(default_factory=_no_items)
    eligible: EligibleItems | None = None

    @property
    def width(self) -> int:
        """Beams to keep: fewer than `n` could not return `n` items."""
        return max(self.n, self.beam_width)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded item and its log-probability (natural log) under constrained decoding."""

    item: int
    score: float


class Decoder(Protocol):
    """Decodes item codes under the trie.

    A score is the sum over levels of the log-softmax over the children of the node in the whole catalogue's trie.
    Filters and exclusions prune beams and never renormalise, so an item's score does not depend on them. With a beam at
    least as wide as the trie's widest level the answer is exact.
    """

    name: str
    """What entries decoded by it are marked with; one of `cache_schema.GENERATORS`."""

    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """Decode a batch: for each request min(n, eligible items) distinct items, best first."""

    def score_items(self, history: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float64]:
        """The exact log-probability of each given item after this history; float64 [len(items)]."""

    def close(self) -> None:
        """Give back the engine's memory and processes."""
