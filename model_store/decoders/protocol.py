"""What every decoder promises, whatever engine runs the model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.decoders.decode_stats import Observer
from model_store.prefix_trie import EligibleItems
from model_store.prompts import PromptEncoder


def _no_items() -> NDArray[np.int32]:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class DecodeRequest:
    """One constrained decode.

    Attributes:
        history: item indices, oldest first; int32 [H]. Only the manifest's `max_history` newest are read. H >= 1, or
            with a query H >= 0.
        n: how many items to return.
        beam_width: beams kept at each level; raised to `n` where it is smaller. Of no meaning with candidates.
        excluded: item indices this user must not see; int32 [X], any order, duplicates allowed.
        eligible: the catalogue-wide filter, None when every item may be shown.
        query: what the user asks for in words; None for the next item of the history.
        candidates: item indices; int32 [K], any order, duplicates allowed. Only these are ranked, each by its exact
            score, without a beam. None for the whole catalogue.
        max_per_prefix: items at most that share the first `prefix_levels` codes of their code; None for any number.
        prefix_levels: how many codes make a prefix, 1 to L. Of no meaning without `max_per_prefix`.

    Raises:
        ValueError: there is neither a history nor a query.
    """

    history: NDArray[np.int32]
    n: int
    beam_width: int
    excluded: NDArray[np.int32] = field(default_factory=_no_items)
    eligible: EligibleItems | None = None
    query: str | None = None
    candidates: NDArray[np.int32] | None = None
    max_per_prefix: int | None = None
    prefix_levels: int = 1

    def __post_init__(self) -> None:
        if self.query is None and len(self.history) == 0:
            raise ValueError("without a query, a history must hold at least one item")

    @property
    def width(self) -> int:
        """Codes followed at each level: beams, of which fewer than `n` could not return `n` items, or candidates."""
        return max(self.n, self.beam_width) if self.candidates is None else len(self.candidates)

    def open_candidates(self) -> NDArray[np.int32]:
        """The candidates that may be shown, each once; int32, none where there are no candidates."""
        if self.candidates is None:
            return _no_items()
        items = np.setdiff1d(self.candidates, self.excluded)
        return items if self.eligible is None else items[self.eligible.mask[items]]


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded item and its score, a log-probability (natural log) or a weighted mean of two."""

    item: int
    score: float


class Decoder(Protocol):
    """Decodes item codes under the trie.

    A score is the sum over levels of the log-softmax over the children of the node in the whole catalogue's trie; where
    the version gives its collaborative encoder a say, it is mixed with the encoder's (see `collaborative_score`).
    Filters, exclusions, candidates and caps prune and never renormalise, so an item's score does not depend on them.
    With a beam at least as wide as the trie's widest level, and always with candidates, the answer is exact; under a
    cap that is the list of somebody who goes through all items, best first, and skips those whose prefix is full.
    """

    name: str
    """What entries decoded by it are marked with; one of `cache_entries.GENERATORS`."""

    observer: Observer | None
    """Told what each batch cost. Decoders made of this one by `for_version` have the same."""

    @property
    def alive(self) -> bool:
        """Whether its engine still runs; one that has died stays dead."""

    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """Decode a batch: for each request min(n, eligible items) distinct items, best first.

        Under a cap, eligible items count as far as their prefix has room: see `prefix_cap.PrefixCap`.
        """

    def score_items(
        self, history: NDArray[np.int32], items: NDArray[np.int32], query: str | None = None
    ) -> NDArray[np.float64]:
        """The exact score of each given item after this history and query; float64 [len(items)]."""

    def close(self) -> None:
        """Give back the engine's memory and processes."""


def render(prompts: PromptEncoder, request: DecodeRequest) -> NDArray[np.int32]:
    """The prompt of one decode."""
    if request.query is not None:
        return prompts.query(request.history, request.query)
    return prompts.sequential(request.history)
