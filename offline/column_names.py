"""Which column of a data file holds what."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from offline.data_problems import DataError

USUAL = {
    "user": ("user_id", "userId", "user"),
    "item": ("item_id", "itemId", "item"),
    "timestamp": ("timestamp", "time", "position"),
    "event_type": ("event_type", "event", "type"),
    "title": ("title", "name", "movie_title", "item_name"),
    "description": ("description", "text"),
    "categories": ("categories", "category", "genres", "class", "attributes"),
    "price": ("price",),
    "brand": ("brand",),
    "available": ("available", "in_stock"),
}
"""Names looked for when none is given, in order of preference."""


@dataclass(frozen=True, kw_only=True)
class ColumnNames:
    """Column names of a data folder. None looks for the usual names (`USUAL`); a name given must be there."""

    user: str | None = None
    item: str | None = None
    """Used in the interactions and in the items file."""
    timestamp: str | None = None
    """Numbers that grow with time (Unix seconds, positions) or ISO 8601 dates."""
    event_type: str | None = None
    """Tells two events of one user and item at one time apart, such as a view and a purchase."""
    title: str | None = None
    description: str | None = None
    categories: str | None = None
    price: str | None = None
    brand: str | None = None
    available: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in (getattr(self, f.name) for f in fields(self)) if name is not None]
        if len(set(given)) != len(given):
            raise ValueError(f"one column is named for two things: {', '.join(given)}")

    def find(self, what: str, header: Sequence[str], path: Path) -> str | None:
        """Name of the column that holds `what` (a field of this class), or None when the file has none.

        Raises:
            DataError: the column was named by the user and the file does not have it.
        """
        given = getattr(self, what)
        if given is None:
            return next((name for name in USUAL[what] if name in header), None)
        if given not in header:
            raise DataError(f"no column {given!r} for {what}; the columns are {', '.join(header)}", path)
        return str(given)

    def require(self, what: str, header: Sequence[str], path: Path) -> str:
        """As `find`, for a column that must be there.

        Raises:
            DataError: the file has no such column.
        """
        name = self.find(what, header, path)
        if name is None:
            raise DataError(
                f"no {what} column: looked for {', '.join(USUAL[what])}; the columns are {', '.join(header)}. "
                f"Rename one, or say which column holds the {what}",
                path,
                1,
            )
        return name
