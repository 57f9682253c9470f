"""Bodies, parameters and answers in Gorse's names. Unknown names are errors here as everywhere."""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_pascal

from app.eligibility import ItemFilter
from app.schemas import MAX_EVENTS, MAX_ITEMS, MAX_OFFSET, MAX_WRITE_BACK_DELAY_S, Asked, EventType, Id

MAX_USERS = 1000
_MAX_CATEGORIES = 20
_PAGE = 100
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|μs|ms|s|m|h)"

CategoryPath = Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f\ufffd]*$")]
"""A category at the end of a path; empty for none, which is what a Gorse client sends."""

NonPersonalized = Literal["popular", "latest"]

Free = Annotated[str, StringConstraints(max_length=5000)]


def _without_zero(value: object) -> object:
    """Gorse's zero time, and an empty text, are no time."""
    return None if isinstance(value, str) and (not value or value.startswith("0001-01-01")) else value


Moment = Annotated[
    datetime | None,
    BeforeValidator(_without_zero),
    Field(description="ISO 8601, UTC where it does not say, or Unix seconds; empty for none."),
]


class GorseBody(BaseModel):
    """What a caller sends, under no other names."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_pascal)


class GorseAnswer(BaseModel):
    """What a caller gets."""

    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, validate_by_name=True)


class SessionFeedback(GorseBody):
    """Somebody without a name did something with an item."""

    feedback_type: EventType
    item_id: Id
    user_id: Annotated[str, StringConstraints(max_length=256)] = Field(default="", description="Not looked at.")
    timestamp: Moment = None
    value: float | None = Field(default=None, description="Not kept.")
    comment: Free | None = Field(default=None, description="Not kept.")
    updated: Moment = Field(default=None, description="Not kept.")

    def seconds(self) -> float:
        """When it happened, Unix seconds; infinite, which is last, where it does not say."""
        if self.timestamp is None:
            return math.inf
        return (self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)).timestamp()


class Feedback(SessionFeedback):
    """A user did something with an item."""

    user_id: Id


Feedbacks = Annotated[list[Feedback], Field(min_length=1, max_length=MAX_EVENTS)]
SessionFeedbacks = Annotated[list[SessionFeedback], Field(max_length=MAX_EVENTS)]


class UserBody(GorseBody):
    """A user; nothing of it is kept."""

    user_id: Id
    labels: dict[str, Any] | list[Any] | None = Field(default=None, description="Not kept.")
    subscribe: list[str] | None = Field(default=None, description="Not kept.")
    comment: Free | None = Field(default=None, description="Not kept.")


Users = Annotated[list[UserBody], Field(min_length=1, max_length=MAX_USERS)]


class UserAnswer(GorseAnswer):
    """A user."""

    user_id: str
    labels: None = None
    comment: str = ""


class Score(GorseAnswer):
    """An item of a list."""

    id: str
    score: float = Field(
        description="a log-probability, a cosine similarity, a number of events or Unix seconds, whichever part gave "
        "the item: the order of the list is what counts"
    )


class RejectedRow(GorseAnswer):
    """A row that was not stored."""

    row: int = Field(description="its place in the request, from 0")
    item_id: str
    reason: str


class RowAffected(GorseAnswer):
    """How many rows were stored."""

    row_affected: int
    rejected: list[RejectedRow] = Field(default=[], description="the others; not there where there are none")


class Health(GorseAnswer):
    """Whether requests are answered."""

    ready: bool
    data_store_connected: bool = Field(description="whether Redis answers")
    cache_store_connected: bool = Field(description="the same: there is one store")
    data_store_error: str | None
    cache_store_error: str | None


class ScoresParameters(Asked):
    """A page of a list."""

    n: int = Field(default=10, ge=1, le=MAX_ITEMS, description="Items to return.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="Items of the whole list to skip.")
    category: tuple[Id, ...] = Field(
        default=(), max_length=_MAX_CATEGORIES, description="The item is in this category; given several times, in all."
    )

    def item_filter(self, category: str = "") -> ItemFilter:
        """What every item must meet: all of these categories, and that of the path where there is one."""
        return ItemFilter(frozenset((*self.category, category) if category else self.category))


class ItemScoresParameters(ScoresParameters):
    """A page of a list that is about items, perhaps for a user."""

    user_id: Id | None = Field(
        default=None, alias="user-id", description="Leave out what this user has in the history, has read, or blocked."
    )


class RecommendationParameters(ScoresParameters):
    """How to recommend."""

    write_back_type: EventType | None = Field(
        default=None, alias="write-back-type", description="One of the server's read types: what is shown counts as it."
    )
    write_back_delay: Annotated[str, StringConstraints(max_length=32, pattern=f"^(0|(?:{_PART})+)$")] = Field(
        default="0s", alias="write-back-delay", description="From when on, after the answer: `10m`, `1h30m`."
    )

    @model_validator(mode="after")
    def _in_bounds(self) -> "RecommendationParameters":
        if self.delay_s() > MAX_WRITE_BACK_DELAY_S:
            raise ValueError(f"write-back-delay is more than {MAX_WRITE_BACK_DELAY_S} s")
        return self

    def delay_s(self) -> float:
        """The delay in seconds."""
        return sum(float(number) * _UNITS_S[unit] for number, unit in re.findall(_PART, self.write_back_delay))

    def read_after_s(self) -> float | None:
        """As the recommender takes it: None where nothing is written back."""
        return None if self.write_back_type is None else self.delay_s()


class PageParameters(Asked):
    """A page of what is stored."""

    n: int = Field(default=10, ge=1, description=f"Rows of a page; there are never more than {_PAGE}.")
    cursor: Annotated[str, StringConstraints(max_length=256, pattern=r"^[^\x00-\x1f\x7f\ufffd]*$")] = Field(
        default="", description="`Cursor` of the page before; empty for the first one."
    )

    @property
    def size(self) -> int:
        """Rows that are given."""
        return min(self.n, _PAGE)


class ItemsParameters(PageParameters):
    """Which items."""

    q: Annotated[str, StringConstraints(max_length=200)] = Field(
        default="", description="Only items with this in their title, in any case."
    )
