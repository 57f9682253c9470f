"""What the service answers, as frozen dataclasses. A field the client does not know is left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RankedItem:
    """One item of a list.

    Attributes:
        rank: 1 for the best of the whole list, whatever the offset.
        score: log-probability, cosine similarity or events, as `reason` says; compare equal reasons.
        code: the item's code as the model writes it.
        reason: the part that gave it: cache, reranked, live, neighbors or popular.
    """

    item_id: str
    rank: int
    score: float
    code: str
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """A list for a user or a session.

    Attributes:
        recommendation_id: repeat it in events to attribute them.
        user_id: None for a session.
        source: the part that gave the first item: cache, stale_cache, live, neighbors or popular.
        generated_at: when the list was decoded, or made; UTC, ISO 8601.
        age_s: seconds since then.
        degraded: a part that should have answered did not.
        shortfall_reason: why there are fewer items than asked for; None when there are enough.
        not_applied: options that the list was made without, and why.
        explain: how the answer came about, where that was asked for.
    """

    recommendation_id: str
    user_id: str | None
    items: tuple[RankedItem, ...]
    source: str
    model_version: str
    generated_at: str
    age_s: float
    degraded: bool
    shortfall_reason: str | None
    not_applied: Mapping[str, str]
    explain: Mapping[str, Any] | None = None

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of the items, best first."""
        return tuple(item.item_id for item in self.items)


@dataclass(frozen=True)
class Recommendations:
    """One answer per user, in the order asked for."""

    answers: tuple[Recommendation, ...]


@dataclass(frozen=True)
class RankedCandidate:
    """One of the items that were to be ranked; `score` is the ranker's, or the model's exact log-probability."""

    item_id: str
    rank: int
    score: float
    code: str


@dataclass(frozen=True)
class Ranking:
    """The items of a request, best first.

    Attributes:
        unknown: ids that the served catalogue does not have.
        ranker: whose scores these are; None for log-probabilities of codes.
    """

    user_id: str | None
    items: tuple[RankedCandidate, ...]
    unknown: tuple[str, ...]
    model_version: str
    ranker: str | None = None


@dataclass(frozen=True)
class SimilarItems:
    """Items near an item, the nearest first.

    Attributes:
        degraded: what the user of `user_id` knows could not be read, and may be among the items.
    """

    item_id: str
    items: tuple[RankedItem, ...]
    model_version: str
    degraded: bool = False


@dataclass(frozen=True)
class PopularItems:
    """The most popular items.

    Attributes:
        degraded: what the user of `user_id` knows could not be read, and may be among the items.
        window: as asked for.
        age_s: seconds since the events of the window were counted.
    """

    items: tuple[RankedItem, ...]
    model_version: str
    degraded: bool = False
    window: str | None = None
    age_s: float = 0.0


@dataclass(frozen=True)
class LatestItems:
    """The newest items; `degraded` as in `PopularItems`."""

    items: tuple[RankedItem, ...]
    model_version: str
    degraded: bool = False


@dataclass(frozen=True)
class WhyNot:
    """Why an item is in a user's list, or is not.

    Attributes:
        verdict: recommended, removed by a rule, or outranked by other items.
        removed_by: all rules that keep it out.
        rank: its place in the list; None when it is not there.
        cached_rank: its place in the cached entry before any rule.
        cached_items: items of the entry.
        score, last_score: the model's exact log-probability of it, and of the list's last item.
        score_unavailable: why there are no scores.
        shared_codes: leading codes in common with the item of the list it is most like.
        outranked_at_level: the first level, from 1, on which the whole list has other codes.
    """

    user_id: str
    item_id: str
    code: str
    model_version: str
    source: str
    verdict: str
    removed_by: tuple[str, ...]
    rank: int | None
    cached_rank: int | None
    cached_items: int
    score: float | None
    last_score: float | None
    score_unavailable: str | None
    shared_codes: int
    outranked_at_level: int | None


@dataclass(frozen=True)
class Item:
    """One item as it is now.

    Attributes:
        price: None where it is not known.
        hidden: whether it is kept out of every list.
        code: as the model writes it; None without one.
        decodable: whether it can be recommended.
        not_decodable: why not.
    """

    item_id: str
    title: str
    text: str
    categories: tuple[str, ...]
    price: float | None
    attributes: Mapping[str, str]
    in_stock: bool
    hidden: bool
    code: str | None
    decodable: bool
    not_decodable: str | None


@dataclass(frozen=True)
class ItemsPage:
    """Some items of the catalogue; `next` is the cursor of the page behind, None behind the last."""

    items: tuple[Item, ...]
    next: str | None


@dataclass(frozen=True)
class DeletedItem:
    """An item that is no more."""

    item_id: str
    deleted: bool


@dataclass(frozen=True)
class RejectedWrite:
    """A write that was not stored; `row` is its place among those that were sent, from 0."""

    row: int
    item_id: str
    reason: str


@dataclass(frozen=True)
class WrittenItems:
    """What became of writes."""

    accepted: int
    rejected: tuple[RejectedWrite, ...]


@dataclass(frozen=True)
class Blocks:
    """Items that a user is never shown; `unknown` are those that the served catalogue does not have."""

    user_id: str
    items: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class RejectedEvent:
    """An event that was not recorded.

    Attributes:
        row: its place among the events that were sent, from 0.
    """

    row: int
    item_id: str
    reason: str


@dataclass(frozen=True)
class RecordedEvents:
    """What became of events; `duplicates` are accepted ones whose id was known, and which were left alone."""

    accepted: int
    rejected: tuple[RejectedEvent, ...]
    duplicates: int = 0


@dataclass(frozen=True)
class History:
    """What is recorded of a user: item ids, oldest first."""

    user_id: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    """Whether there was anything to forget."""

    user_id: str
    existed: bool
