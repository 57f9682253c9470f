"""What callers send of items, and the answers to it."""

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, StringConstraints, model_validator

from app.event_schemas import RejectedLine
from app.item_writes import RejectionReason
from app.schemas import MAX_ITEMS, Asked, Id
from model_store.item_records import ItemChange, ItemRecord, Operation

MAX_WRITES = 1000
_MAX_CATEGORIES = 20
_MAX_ATTRIBUTES = 50
_MAX_PRICE = float(np.finfo(np.float32).max)

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Text = Annotated[str, StringConstraints(max_length=5000)]
AttributeName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
AttributeValue = Annotated[str, StringConstraints(max_length=1000)]
Price = Annotated[float, Field(ge=0, le=_MAX_PRICE, allow_inf_nan=False)]


class ItemFields(Asked):
    """What can be said of an item."""

    title: Title | None = None
    text: Text | None = Field(default=None, description="The description.")
    categories: tuple[Id, ...] | None = Field(default=None, max_length=_MAX_CATEGORIES, description="Broadest first.")
    price: Price | None = Field(default=None, description="In the shop's currency; null where it is not known.")
    attributes: dict[AttributeName, AttributeValue] | None = Field(
        default=None, max_length=_MAX_ATTRIBUTES, description="Whatever else is known, by name: `brand` for one."
    )
    in_stock: bool | None = None
    hidden: bool | None = Field(default=None, description="True to keep the item out of every list.")

    @model_validator(mode="after")
    def _only_a_price_is_null(self) -> Self:
        nulls = [name for name in self.fields() if name != "price" and getattr(self, name) is None]
        if nulls:
            raise ValueError(f"{', '.join(nulls)}: null; leave out what you do not want to set")
        return self

    def fields(self) -> list[str]:
        """Names of the fields that were sent."""
        return [name for name in ItemFields.model_fields if name in self.model_fields_set]

    def record(self) -> ItemRecord:
        """The fields that were sent."""
        sent: Any = self.model_dump(mode="json", include=set(self.fields()))
        record: ItemRecord = sent
        return record


class ItemBody(ItemFields):
    """All of an item: what is left out has no value, and the item is in stock and not hidden."""

    title: Title


class ItemPatch(ItemFields):
    """What changes of an item; the rest stays."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.fields():
            raise ValueError("give at least one field")
        return self


class ItemWrite(ItemFields):
    """One row of a bulk write."""

    item_id: Id
    operation: Operation = Field(
        default="put",
        description="put: all of an item, which is made if it is not there; patch: the given fields of an item that is "
        "there; delete: no field.",
    )

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        if self.operation == "put" and self.title is None:
            raise ValueError("put needs a title")
        if self.operation == "patch" and not self.fields():
            raise ValueError("patch needs at least one field")
        if self.operation == "delete" and self.fields():
            raise ValueError("delete takes no fields")
        return self

    def change(self) -> ItemChange:
        """As it is stored."""
        return ItemChange(self.item_id, self.operation, self.record())


class RejectedWrite(BaseModel):
    """A row that was not stored."""

    row: int = Field(description="its place in the request, from 0")
    item_id: str
    reason: RejectionReason


class WritesAnswer(BaseModel):
    """What became of the rows."""

    accepted: int
    rejected: list[RejectedWrite]


class WriteLinesAnswer(BaseModel):
    """What became of the lines."""

    accepted: int
    rejected_lines: int
    rejected: list[RejectedLine] = Field(description="the first 1000 of them")


class DeletedItem(BaseModel):
    """An item that is no more."""

    item_id: str
    deleted: Literal[True] = True


class ListItemsParameters(Asked):
    """Which items to list."""

    n: int = Field(default=50, ge=1, le=MAX_ITEMS, description="Items of a page at most.")
    cursor: Id | None = Field(default=None, description="`next` of the page before; the first page without it.")
    category: Id | None = Field(default=None, description="Only items in this category.")
    q: str | None = Field(
        default=None, min_length=1, max_length=200, description="Only items with this in their title, in any case."
    )
    in_stock: bool = Field(default=True, description="False to list items that are out of stock too.")
    hidden: bool = Field(default=False, description="True to list hidden items too.")
