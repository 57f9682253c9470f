"""Options of calls, and the events that are sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict


class ListOptions(TypedDict, total=False):
    """Which items, and how many. Left out, or None, the service's default holds.

    n: items to return.
    offset: items of the whole list to skip.
    category: the item is in this category, or in all of several.
    exclude: ids of items not to return.
    in_stock: False to show items that are out of stock too.
    price_min, price_max: bounds of the price; items without a known price are left out.
    """

    n: int | None
    offset: int | None
    category: str | Sequence[str] | None
    exclude: str | Sequence[str] | None
    in_stock: bool | None
    price_min: float | None
    price_max: float | None


class RecommendOptions(ListOptions, total=False):
    """How to recommend, beside `ListOptions`.

    q: what is asked for in words.
    within: "cache" to rank the user's cached items anew rather than search the catalogue.
    only: ids of the only items that may be returned; an empty list allows nothing.
    max_per_prefix: items at most that share the first `prefix_levels` codes of their code.
    prefix_levels: how many codes make a prefix.
    fresh: decode now rather than serve a list that is too old or has missed events.
    strict: a shorter list rather than one that is filled with popular items.
    explain: say how the answer came about.
    """

    q: str | None
    within: Literal["cache"] | None
    only: str | Sequence[str] | None
    max_per_prefix: int | None
    prefix_levels: int | None
    fresh: bool | None
    strict: bool | None
    explain: bool | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """A user did something with an item.

    Attributes:
        type: such as view or purchase.
        timestamp: a datetime (UTC where it has no zone) or Unix seconds; the time of arrival if left out.
        recommendation_id: of the answer that led to it.
    """

    user_id: str
    item_id: str
    type: str = "view"
    timestamp: datetime | float | None = None
    recommendation_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as it is sent."""
        row: dict[str, Any] = {"user_id": self.user_id, "item_id": self.item_id, "type": self.type}
        if self.timestamp is not None:
            at = self.timestamp
            row["timestamp"] = at.isoformat() if isinstance(at, datetime) else at
        if self.recommendation_id is not None:
            row["recommendation_id"] = self.recommendation_id
        return row
