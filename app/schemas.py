"""Request bodies and query parameters, and the answers that are not recommendations. Unknown names are errors."""

from enum import IntEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.decode_wire import MAX_ITEMS as MAX_RANKED
from app.decode_wire import MAX_PREFIX_LEVELS, MAX_QUERY
from app.eligibility import ItemFilter
from app.item_views import WithheldReason
from app.latency import Latency
from app.recommendation import RankedItem, Recommendation, Wanted
from app.settings import EVENT_TYPE

MAX_ITEMS = 100
MAX_OFFSET = 1000
MAX_BATCH_USERS = 100
MAX_EVENTS = 1000
MAX_WRITE_BACK_DELAY_S = 30 * 24 * 3600
_MAX_EXCLUDED = 1000
_MAX_ALLOWED = MAX_RANKED
_MAX_CATEGORIES = 20

Id = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f\ufffd]+$")]
"""A user's or an item's id. U+FFFD stands for bytes that were no UTF-8: different ids would become the same."""

EventType = Annotated[str, StringConstraints(pattern=EVENT_TYPE)]
"""What a user did."""

Window = Literal["1h", "24h", "7d", "30d"]

QueryText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY)]
"""What somebody asks for in words."""


SCENARIO_NAME = r"^[A-Za-z0-9_.-]{1,64}$"

ScenarioName = Annotated[str, StringConstraints(pattern=SCENARIO_NAME)]
"""A table of TESSERA_SCENARIOS_FILE."""


class Asked(BaseModel):
    """What a caller sends: nothing beyond the named fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParameters(Asked):
    """For routes that take no query parameters."""


class FilterParameters(Asked):
    """What every item of an answer must meet."""

    category: tuple[Id, ...] = Field(
        default=(), max_length=_MAX_CATEGORIES, description="The item is in this category; given several times, in all."
    )
    exclude: tuple[Id, ...] = Field(
        default=(), max_length=_MAX_EXCLUDED, description="Ids of items not to return; unknown ones are ignored."
    )
    in_stock: bool = Field(default=True, description="False to show items that are out of stock too.")
    price_min: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Lowest price. Items without a known price are left out."
    )
    price_max: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Highest price. Items without a known price are left out."
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise ValueError("price_min is above price_max")
        return self

    def item_filter(self) -> ItemFilter:
        """The catalogue-wide part."""
        return ItemFilter(frozenset(self.category), self.price_min, self.price_max, self.in_stock)


class ListParameters(FilterParameters):
    """A page of a filtered list."""

    n: int = Field(default=10, ge=1, le=MAX_ITEMS, description="Items to return.")
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET, description="Items of the whole list to skip.")


class ItemListParameters(ListParameters):
    """A page of a list that is about items, perhaps for a user."""

    user_id: Id | None = Field(
        default=None, description="Leave out what this user has in the history, has read, or has blocked."
    )


class PopularParameters(ItemListParameters):
    """Popular items, of all time or of late."""

    window: Window | None = Field(
        default=None,
        description="Count the events of this long until now; left out, those that the served model was trained on.",
    )


class RecommendParameters(ListParameters):
    """How to recommend."""

    scenario: ScenarioName | None = Field(
        default=None,
        description="A named set of defaults of the server: they hold for every parameter that the request leaves out. "
        "Some may be fixed, and not be set to anything else.",
    )
    q: QueryText | None = Field(
        default=None,
        description="What is asked for in words, beside the history or without one. The list is decoded now; when it "
        "cannot be, it is made without the words and `not_applied` says so. A 501 where the served model version "
        "takes no queries.",
    )
    within: Literal["cache"] | None = Field(
        default=None,
        description="cache: rank the user's cached items anew by the newest events, or by q, rather than search the "
        "catalogue; other items come only after them. Without cached items `not_applied` says so.",
    )
    only: tuple[Id, ...] | None = Field(
        default=None,
        max_length=_MAX_ALLOWED,
        description="Ids of the only items that may be returned; unknown ones are ignored. A live decode ranks them by "
        "their exact scores. An empty list, which only a POST can send, allows nothing. Long lists may be too much for "
        "the address of a GET.",
    )
    max_per_prefix: int | None = Field(
        default=None,
        ge=1,
        description="Items at most, of the whole list and from whatever part, that share the first `prefix_levels` "
        "codes of their code: items with a common prefix are alike. A list that is short because of it has the "
        "`shortfall_reason` max_per_prefix_reached.",
    )
    prefix_levels: int = Field(
        default=1,
        ge=1,
        le=MAX_PREFIX_LEVELS,
        description="How many codes make a prefix for `max_per_prefix`. The more, the more alike are items that share "
        "one. Of no meaning without a cap.",
    )
    fresh: bool = Field(
        default=False, description="Decode now rather than serve a list that is too old or has missed events."
    )
    strict: bool = Field(default=False, description="Give a shorter list rather than fill it with popular items.")
    explain: bool | Literal["full"] = Field(
        default=False,
        description="true: say how the answer came about. full: for each item too, and which rules removed which of "
        "the cached ones.",
    )
    write_back_type: EventType | None = Field(
        default=None,
        description="One of the server's read types (`read`): what is shown counts as read by the user, and is not "
        "shown again.",
    )
    write_back_delay_s: float = Field(
        default=0.0,
        ge=0,
        le=MAX_WRITE_BACK_DELAY_S,
        description="Seconds from the answer until it counts as read. Of no meaning without `write_back_type`.",
    )

    def wanted(self, *, user_id: str | None = None, history: tuple[str, ...] = ()) -> Wanted:
        """The request as the recommender takes it."""
        return Wanted(
            user_id=user_id,
            history=history,
            n=self.n,
            offset=self.offset,
            item_filter=self.item_filter(),
            exclude=self.exclude,
            only=self.only,
            # No list is longer, so that a larger number caps nothing.
            max_per_prefix=None if self.max_per_prefix is None else min(self.max_per_prefix, MAX_ITEMS + MAX_OFFSET),
            prefix_levels=self.prefix_levels,
            fresh=self.fresh,
            strict=self.strict,
            explain=self.explain,
            query=self.q,
            within=self.within,
            write_back_after_s=None if self.write_back_type is None else self.write_back_delay_s,
            scenario=self.scenario,
        )


class Whose(Asked):
    """A known user, or a session that is described by what it looked at, or nobody but a query."""

    user_id: Id | None = None
    history: tuple[Id, ...] | None = Field(
        default=None, max_length=1000, description="Item ids of an anonymous session, oldest first."
    )
    q: QueryText | None = Field(
        default=None,
        description="What is asked for in words, beside the history or without one. A 501 where the served model "
        "version takes no queries.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.user_id is not None and self.history is not None:
            raise ValueError("give either user_id or history")
        if self.user_id is None and self.history is None and self.q is None:
            raise ValueError("give user_id, history or q")
        return self


class RecommendBody(RecommendParameters, Whose):
    """A request for a known user, for a session, or for a query alone."""

    @model_validator(mode="after")
    def _somebody_reads(self) -> Self:
        if self.write_back_type is not None and self.user_id is None:
            raise ValueError("write_back_type needs a user_id")
        return self


class RankBody(Whose):
    """Items to put in order."""

    items: tuple[Id, ...] = Field(
        min_length=1, max_length=MAX_RANKED, description="Item ids, in any order; each is ranked once."
    )
    in_stock: bool = Field(default=True, description="False to rank items that are out of stock too.")
    by: Literal["auto", "ranker", "codes"] = Field(
        default="auto",
        description="ranker: the served version's ranker; codes: the model's log-probability of each item's code. "
        "auto: the ranker where there is one and no q is given, since rankers read none.",
    )


class WhyNotBody(FilterParameters):
    """An item that somebody missed in a user's list."""

    user_id: Id
    item_id: Id
    n: int = Field(default=10, ge=1, le=MAX_ITEMS, description="Items of the list it was missed in.")


class RankedCandidate(BaseModel):
    """One item in its place."""

    item_id: str
    rank: int = Field(description="1 for the best")
    score: float = Field(
        description="the ranker's score, or the model's exact log-probability over the whole catalogue; neither "
        "depends on which other items are ranked, and the two do not compare"
    )
    code: str = Field(description="the item's code as the model writes it")


class WithheldItem(BaseModel):
    """One item that is not ranked because it must not be shown."""

    item_id: str
    reason: WithheldReason = Field(
        description="deleted, hidden, out_of_stock, or not_decodable: new, and not in the served version yet"
    )


class RankAnswer(BaseModel):
    """The items of a request, best first."""

    user_id: str | None
    items: list[RankedCandidate]
    unknown: list[str] = Field(description="ids that the served catalogue does not have; they are not ranked")
    withheld: list[WithheldItem] = Field(description="items that must not be shown; they are not ranked")
    model_version: str
    ranker: str | None = Field(description="the ranker whose scores these are; null for log-probabilities of codes")


class BatchBody(RecommendParameters):
    """The same request for several users."""

    user_ids: tuple[Id, ...] = Field(min_length=1, max_length=MAX_BATCH_USERS)


class BatchAnswer(BaseModel):
    """One answer per user, in the order asked for."""

    answers: list[Recommendation]


class ItemList(BaseModel):
    """Items in order."""

    items: list[RankedItem]
    model_version: str
    degraded: bool = Field(
        default=False, description="what the user of `user_id` knows could not be read, and may be among the items"
    )


class SimilarAnswer(ItemList):
    """Items near an item."""

    item_id: str


class PopularAnswer(ItemList):
    """The most popular items that pass the filter."""

    window: Window | None = Field(default=None, description="as asked for")
    age_s: float = Field(default=0, description="seconds since the events of the window were counted")


class LatestAnswer(ItemList):
    """The newest items that pass the filter."""


class ModelSummary(BaseModel):
    """One published version."""

    version: str
    created_at: str
    recipe: str
    items: int
    metrics: dict[str, object]
    served: bool = Field(description="whether this worker answers with it now")


class ModelsAnswer(BaseModel):
    """The published versions, oldest first."""

    served: str
    models: list[ModelSummary]
    unreadable: dict[str, str] = Field(description="folders of the store whose manifest cannot be read, and why")


class Dependency(BaseModel):
    """The state of one dependency."""

    ok: bool
    configured: bool = True
    detail: str | None = None


class Readiness(BaseModel):
    """Whether requests can be answered, and from what."""

    status: str = Field(description="ready, or degraded when answers come without a part that should give them")
    model_version: str
    dependencies: dict[str, Dependency]


class Liveness(BaseModel):
    """The process answers."""

    status: str


class Minutes(IntEnum):
    """How far /latency looks back."""

    ONE = 1
    FIVE = 5
    SIXTY = 60


class LatencyParameters(Asked):
    """Which window."""

    minutes: Minutes = Field(default=Minutes.FIVE, description="How far back, to within ten seconds.")


class LatencyAnswer(BaseModel):
    """Request times of all workers of this server, within a window."""

    minutes: int
    latencies: list[Latency]
