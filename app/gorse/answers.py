"""Answers in Gorse's shapes."""

from collections.abc import Iterable, Sequence

from app.gorse.schemas import RejectedRow
from app.json_response import Json
from app.recommendation import RankedItem


def row_affected(rows: int, rejected: Sequence[RejectedRow] = ()) -> Json:
    """How many rows were stored, and which were not."""
    answer: dict[str, object] = {"RowAffected": rows}
    if rejected:
        answer["Rejected"] = [one.model_dump(by_alias=True) for one in rejected]
    return Json(answer)


def scores(items: Iterable[RankedItem]) -> Json:
    """A list of items with their scores."""
    return Json([{"Id": item.item_id, "Score": item.score} for item in items])
