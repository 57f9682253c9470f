"""What is asked of the recommender and what it gives back."""

from dataclasses import dataclass
from typing import Literal

from app.eligibility import EVERYTHING_IN_STOCK, ItemFilter

Source = Literal["cache", "stale_cache", "live", "neighbors", "popular"]
Reason = Literal["cache", "reranked", "live", "neighbors", "popular", "latest"]
Explain = bool | Literal["full"]
Option = Literal["q", "within"]
Shortfall = Literal["eligible_items_exhausted", "no_history", "personal_items_exhausted", "max_per_prefix_reached"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One request for recommendations.

    Attributes:
        user_id: whose, or None for an anonymous session, which `history` describes.
        history: item ids of an anonymous session, oldest first.
        n: items to return.
        offset: items of the whole list to skip.
        item_filter: what every item must meet.
        exclude: item ids not to return.
        only: item ids of which nothing else may be returned; None for the whole catalogue.
        max_per_prefix: items at most that share the first `prefix_levels` codes of their code, in the whole list;
            None for any number.
        prefix_levels: how many codes make a prefix.
        fresh: decode now rather than serve an entry that is too old or has missed events.
        strict: give a shorter list rather than fill it with popular items.
        explain: say how the answer came about; `full` for each item too.
        query: what is asked for in words.
        within: `cache` to rank the user's cached items anew rather than search the catalogue.
        write_back_after_s: seconds after the answer from which what it shows counts as read; None: it does not.
        scenario: whose defaults the request has taken; one that is configured.
    """

    user_id: str | None = None
    history: tuple[str, ...] = ()
    n: int = 10
    offset: int = 0
    item_filter: ItemFilter = EVERYTHING_IN_STOCK
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    max_per_prefix: int | None = None
    prefix_levels: int = 1
    fresh: bool = False
    strict: bool = False
    explain: Explain = False
    query: str | None = None
    within: Literal["cache"] | None = None
    write_back_after_s: float | None = None
    scenario: str | None = None


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One recommended item.

    Attributes:
        rank: 1 for the best of the whole list, whatever the offset.
        score: log-probability (cache, reranked, live), cosine similarity (neighbors), events (popular) or Unix seconds,
            0 where unknown (latest): compare equal reasons.
        code: the item's code as the model writes it.
        reason: the part that gave it; `reranked` is the live decoder, among the cached items alone.
    """

    item_id: str
    rank: int
    score: float
    code: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came about.

    Attributes:
        entry_age_s: age of the cached entry, None without one.
        entry_items: items it holds.
        dirty: whether events came since it was decoded.
        history_items: items of the history that the served catalogue knows.
        removed: cached items that each rule removed; an item can count under several.
        given: items each part gave, before the offset was cut off.
        unavailable: parts that should have answered and did not, and why.
        stages_ms: time in each stage.
        scenario: whose defaults held, None without one.
    """

    entry_age_s: float | None
    entry_items: int
    dirty: bool
    history_items: int
    removed: dict[str, int]
    given: dict[str, int]
    unavailable: dict[str, str]
    stages_ms: dict[str, float]
    scenario: str | None


@dataclass(frozen=True, slots=True)
class ExplainedItem:
    """One item of an answer.

    Attributes:
        log_probability: of its code under the model, given the history; None for items that no model ranked.
    """

    item_id: str
    code: str
    log_probability: float | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class RemovedItem:
    """A cached item that was not to be shown.

    Attributes:
        rank: its place in the cached list, 1 for the best.
        rules: all that remove it.
    """

    item_id: str
    rank: int
    rules: list[str]


@dataclass(frozen=True, slots=True)
class FilterInForce:
    """What every item of an answer had to meet, history apart.

    Attributes:
        excluded: items of `exclude` that the catalogue has.
        only: items of `only` that it has; None without such a list.
    """

    category: list[str]
    price_min: float | None
    price_max: float | None
    in_stock: bool
    excluded: int
    only: int | None
    max_per_prefix: int | None
    prefix_levels: int


@dataclass(frozen=True, slots=True)
class FullExplanation(Explanation):
    """How an answer came about, item by item.

    Attributes:
        items: those of the answer, in its order.
        removed_items: cached items that rules removed, the best 100 of them.
        filter: what was asked of every item.
        entry_engine: what decoded the cached entry, None without one.
        live_engine: what decoded for this answer, None without a live decode.
    """

    model_version: str
    items: list[ExplainedItem]
    removed_items: list[RemovedItem]
    filter: FilterInForce
    entry_engine: str | None
    live_engine: str | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One answer; its fields are the response's.

    Attributes:
        recommendation_id: repeat it in events to attribute them.
        user_id: None for an anonymous session.
        source: the part that gave the first item of the whole list.
        generated_at: when the list was decoded, or made; UTC, ISO 8601.
        age_s: seconds since then; 0 for what was made for this request.
        degraded: a part that should have answered did not.
        shortfall_reason: why there are fewer than n items; None when there are n. max_per_prefix_reached: others could
            be shown, but their prefixes are full.
        not_applied: options of the request that the list was made without, and why. `q`, `within`: no_decoder,
            queue_full, deadline, breaker_open, version or failed, the live decode's trouble. `within` too: no_entry,
            nothing is cached for this user; no_history, nothing to rank by; redis, the cache cannot be read.
    """

    recommendation_id: str
    user_id: str | None
    items: list[RankedItem]
    source: Source
    model_version: str
    generated_at: str
    age_s: float
    degraded: bool
    shortfall_reason: Shortfall | None
    not_applied: dict[Option, str]


@dataclass(frozen=True, slots=True)
class ExplainedRecommendation(Recommendation):
    """An answer that says how it came about."""

    explain: FullExplanation | Explanation
