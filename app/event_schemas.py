"""What is sent and said of a user's events and history."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from app.schemas import Asked, EventType, Id


class Event(Asked):
    """A user did something with an item."""

    user_id: Id
    item_id: Id
    type: EventType = "view"
    id: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = Field(
        default=None,
        description="A name of this event, unique among those of the user. An event whose name is known already is "
        "accepted and not recorded again.",
    )
    timestamp: datetime | None = Field(
        default=None,
        description="ISO 8601 (UTC where it does not say) or Unix seconds; now if left out. Orders the rows.",
    )
    recommendation_id: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="Of the answer that led to it, for attribution."
    )

    def seconds(self, now: float) -> float:
        """When it happened, Unix seconds."""
        if self.timestamp is None:
            return now
        moment = self.timestamp
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


class RejectedEvent(BaseModel):
    """A row that was not recorded."""

    row: int = Field(description="its place in the request, from 0")
    item_id: str
    reason: str


class EventsAnswer(BaseModel):
    """What became of the rows."""

    accepted: int
    duplicates: int = Field(description="of the accepted ones, those whose id was known, and which were left alone")
    rejected: list[RejectedEvent]


class RejectedLine(BaseModel):
    """A line that was not recorded."""

    line: int = Field(description="its number, from 1")
    reason: str = Field(description="what is wrong with it, or unknown_item")


class EventLinesAnswer(BaseModel):
    """What became of the lines."""

    accepted: int
    duplicates: int = Field(description="of the accepted ones, those whose id was known, and which were left alone")
    rejected_lines: int = Field(description="how many lines were not recorded")
    rejected: list[RejectedLine] = Field(description="the first 1000 of them")


class History(BaseModel):
    """What is recorded of a user."""

    user_id: str
    items: list[str] = Field(description="item ids, oldest first")


class Forgotten(BaseModel):
    """Whether there was anything to forget."""

    user_id: str
    existed: bool
