"""An item in Gorse's names, and how it lies over ours.

    Comment     its first line is the title (the id where it is empty), the rest the text
    Labels      attributes; what is no text is kept as JSON, a bare list under the name `labels`
    Timestamp   the attribute `timestamp`, by which the latest items are found
    IsHidden    hidden
    Categories  categories

Price and stock are nothing that Gorse has: writing an item in its names leaves both alone.
"""

from datetime import UTC, datetime
from typing import Any, Self

import orjson
from pydantic import Field, ValidationError, model_validator

from app.gorse.schemas import GorseAnswer, GorseBody, Moment
from app.item_schemas import MAX_WRITES, ItemBody
from app.item_views import ItemView
from app.latest_items import time_of
from app.schemas import Id
from model_store.item_records import ItemRecord

ZERO_TIME = "0001-01-01T00:00:00Z"
"""What Gorse says where there is no time."""
MAX_ROWS = MAX_WRITES

_TIMESTAMP = "timestamp"
_BARE = "labels"
_NAMES = {"title": "first line of Comment", "text": "rest of Comment", "attributes": "Labels"}

Labels = dict[str, Any] | list[Any] | None


class ItemSaid(GorseBody):
    """What can be said of an item; null is unsaid."""

    is_hidden: bool | None = None
    categories: tuple[Id, ...] | None = None
    timestamp: Moment = None
    labels: Labels = Field(default=None, description="Texts by name; other values are kept as JSON.")
    comment: str | None = Field(default=None, description="Title in the first line, text below.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.labels, dict) and _TIMESTAMP in self.labels:
            raise ValueError("Labels: `timestamp` is what Timestamp is kept as; give that")
        title, text = _lines("item", self.comment or "")
        try:
            # The bounds are those of our own items.
            ItemBody(title=title, text=text, categories=self.categories or (), attributes=_attributes(self.labels))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            said = (f"{_NAMES.get(str(one['loc'][0]), 'Categories')}: {one['msg']}" for one in found[:5])
            raise ValueError("; ".join(said)) from None
        return self

    def changes(self, item_id: str, attributes: dict[str, str]) -> ItemRecord:
        """The fields of ours that are said.

        Args:
            item_id: of which item.
            attributes: those it has; what is not said of them stays.
        """
        said: ItemRecord = {}
        if self.is_hidden is not None:
            said["hidden"] = self.is_hidden
        if self.categories is not None:
            said["categories"] = list(self.categories)
        if self.comment is not None:
            said["title"], said["text"] = _lines(item_id, self.comment)
        if self.labels is not None or self.timestamp is not None:
            labels, timestamp = _apart(attributes)
            if self.labels is not None:
                labels = _attributes(self.labels)
            if self.timestamp is not None:
                timestamp = _text_of(self.timestamp)
            said["attributes"] = labels if timestamp is None else {**labels, _TIMESTAMP: timestamp}
        return said


class GorseItem(ItemSaid):
    """All of an item."""

    item_id: Id

    def record(self) -> ItemRecord:
        """All fields that Gorse has, those that are not said at their defaults."""
        everything: ItemRecord = {"hidden": False, "categories": [], "attributes": {}}
        everything["title"], everything["text"] = _lines(self.item_id, "")
        return {**everything, **self.changes(self.item_id, {})}


class ItemAnswer(GorseAnswer):
    """An item as it is now."""

    item_id: str
    is_hidden: bool
    categories: list[str]
    timestamp: str = Field(description=f"UTC; {ZERO_TIME} where there is none")
    labels: Labels
    comment: str


class ItemsAnswer(GorseAnswer):
    """Some items."""

    cursor: str = Field(description="of the page after this one; empty behind the last")
    items: list[ItemAnswer]


def shown(view: ItemView) -> ItemAnswer:
    """One of our items in Gorse's names."""
    labels, timestamp = _apart(view.attributes)
    title = "" if view.title == view.item_id and not view.text else view.title
    return ItemAnswer(
        item_id=view.item_id,
        is_hidden=view.hidden,
        categories=list(view.categories),
        timestamp=ZERO_TIME if timestamp is None else _rfc3339(timestamp) or ZERO_TIME,
        labels=_labels(labels),
        comment=f"{title}\n{view.text}" if view.text else title,
    )


def _lines(item_id: str, comment: str) -> tuple[str, str]:
    first, _, rest = comment.strip().partition("\n")
    return first.strip() or item_id, rest


def _text_of(moment: datetime) -> str:
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).isoformat()


def _rfc3339(text: str) -> str | None:
    try:
        moment = datetime.fromtimestamp(time_of({_TIMESTAMP: text}), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat().replace("+00:00", "Z")


def _apart(attributes: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """The labels among attributes, and the time. A time that cannot be read is a label."""
    text = attributes.get(_TIMESTAMP)
    if text is None or not time_of({_TIMESTAMP: text}) or _rfc3339(text) is None:
        return dict(attributes), None
    return {name: value for name, value in attributes.items() if name != _TIMESTAMP}, text


def _attributes(labels: Labels) -> dict[str, str]:
    if isinstance(labels, list):
        labels = {_BARE: labels}
    try:
        return {
            name: value if isinstance(value, str) else orjson.dumps(value).decode()
            for name, value in (labels or {}).items()
        }
    except TypeError:
        raise ValueError("Labels: nested too deep, a number too large, or no Unicode") from None


def _labels(attributes: dict[str, str]) -> Labels:
    labels: dict[str, Any] = {name: _value(text) for name, text in attributes.items()}
    bare = labels.get(_BARE)
    return bare if len(labels) == 1 and isinstance(bare, list) else labels or None


def _value(text: str) -> Any:
    """Lists and objects come back as such; every other value is the text it is kept as."""
    if text[:1] in ("[", "{"):
        try:
            return orjson.loads(text)
        except ValueError:
            pass
    return text
