"""Options of calls, and the events that are sent."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypedDict


class FilterOptions(TypedDict, total=False):
    """Which items. Left out, or None, the service's default holds.

    category: the item is in this category, or in all of several.
    exclude: ids of items not to return.
    in_stock: False to show items that are out of stock too.
    price_min, price_max: bounds of the price; items without a known price are left out.
    """

    category: str | Sequence[str] | None
    exclude: str | Sequence[str] | None
    in_stock: bool | None
    price_min: float | None
    price_max: float | None


class ListOptions(FilterOptions, total=False):
    """Which items, and how many, beside `FilterOptions`.

    n: items to return.
    offset: items of the whole list to skip.
    """

    n: int | None
    offset: int | None


class ItemListOptions(ListOptions, total=False):
    """Lists about items, beside `ListOptions`.

    user_id: leave out what this user has in the history, has read, or has blocked.
    """

    user_id: str | None


class PopularOptions(ItemListOptions, total=False):
    """Popular items, beside `ItemListOptions`.

    window: count the events of this long until now; those that the model was trained on where left out.
    """

    window: Literal["1h", "24h", "7d", "30d"] | None


class CatalogueOptions(TypedDict, total=False):
    """Which items to list.

    n: items of a page at most.
    cursor: `next` of the page before.
    category: only items in it.
    q: only items with this in their title, in any case.
    in_stock: False to list items that are out of stock too.
    hidden: True to list hidden items too.
    """

    n: int | None
    cursor: str | None
    category: str | None
    q: str | None
    in_stock: bool | None
    hidden: bool | None


class ItemFields(TypedDict, total=False):
    """What can be said of an item; what is left out is not set. A price of None is one that is not known."""

    title: str
    text: str
    categories: Sequence[str]
    price: float | None
    attributes: Mapping[str, str]
    in_stock: bool
    hidden: bool


@dataclass(frozen=True)
class ItemWrite:
    """One of many writes.

    Attributes:
        operation: put, all of an item, which needs a title; patch, the given fields of an item that is there; delete.
    """

    item_id: str
    fields: ItemFields = field(default_factory=lambda: ItemFields())
    operation: Literal["put", "patch", "delete"] = "put"


class RefreshOptions(TypedDict, total=False):
    """Which lists to decode anew.

    version: the served one by default.
    budget_users, budget_s: of mode stale, so many users or seconds at most.
    users: of mode full, only these.
    """

    version: str | None
    budget_users: int | None
    budget_s: float | None
    users: Sequence[str] | None


class RecommendOptions(ListOptions, total=False):
    """How to recommend, beside `ListOptions`.

    scenario: a named set of the service's defaults, for all that is left out.
    q: what is asked for in words.
    within: "cache" to rank the user's cached items anew rather than search the catalogue.
    only: ids of the only items that may be returned; an empty list allows nothing.
    max_per_prefix: items at most that share the first `prefix_levels` codes of their code.
    prefix_levels: how many codes make a prefix.
    fresh: decode now rather than serve a list that is too old or has missed events.
    strict: a shorter list rather than one that is filled with popular items.
    explain: say how the answer came about; "full", for each item too.
    write_back_type: a read type of the service: what is shown counts as read by the user, and is not shown again.
    write_back_delay_s: seconds from the answer until it does.
    """

    scenario: str | None
    q: str | None
    within: Literal["cache"] | None
    only: str | Sequence[str] | None
    max_per_prefix: int | None
    prefix_levels: int | None
    fresh: bool | None
    strict: bool | None
    explain: bool | Literal["full"] | None
    write_back_type: str | None
    write_back_delay_s: float | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """A user did something with an item.

    Attributes:
        type: such as view or purchase.
        timestamp: a datetime (UTC where it has no zone) or Unix seconds; the time of arrival if left out.
        recommendation_id: of the answer that led to it.
        id: a name of this event, unique among those of the user; made up where none is given, so that an event which
            is sent again is recorded once.
    """

    user_id: str
    item_id: str
    type: str = "view"
    timestamp: datetime | float | None = None
    recommendation_id: str | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def as_json(self) -> dict[str, Any]:
        """The row as it is sent."""
        row: dict[str, Any] = {"id": self.id, "user_id": self.user_id, "item_id": self.item_id, "type": self.type}
        if self.timestamp is not None:
            at = self.timestamp
            row["timestamp"] = at.isoformat() if isinstance(at, datetime) else at
        if self.recommendation_id is not None:
            row["recommendation_id"] = self.recommendation_id
        return row
