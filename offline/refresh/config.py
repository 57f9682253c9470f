"""Settings of a refresh."""

from dataclasses import dataclass

from model_store.errors import TesseraError


@dataclass(frozen=True, kw_only=True)
class RefreshConfig:
    """Settings of a refresh."""

    k: int = 20
    """Items kept for each user."""
    beam_width: int = 50
    shard_users: int = 512
    """Users decoded, written and entered in the ledger together, about."""
    entry_ttl_s: int = 14 * 86_400
    history_length: int = 200
    """Newest events kept of each user when histories are imported."""
    history_ttl_s: int = 90 * 86_400
    candidates: int | None = None
    """Items of the generator that the version's ranker orders, of which the first k are kept; None without a ranker."""
    rank_weight: float = 1.0
    """The ranker's share of that order; the rest is the generator's."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.beam_width:
            raise TesseraError(f"refresh: k must be between 1 and the beam width {self.beam_width}, not {self.k}")
        if self.candidates is not None and not self.k <= self.candidates <= self.beam_width:
            raise TesseraError(
                f"refresh --rank: candidates must be between k, {self.k}, and the beam width {self.beam_width}, "
                f"not {self.candidates}"
            )
