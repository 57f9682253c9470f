"""Lists that are about items, not about a user: similar, popular and latest."""

import asyncio
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.eligibility import ItemFilter
from app.popular_items import PopularItems
from app.recommendation import RankedItem, Reason
from app.served_model import ServedModel


async def similar_items(
    model: ServedModel, item: int, n: int, offset: int, item_filter: ItemFilter, exclude: Iterable[str]
) -> list[RankedItem]:
    """The items nearest to an item (an index), itself left out; scores are cosine similarities."""
    eligible = await model.eligibility.items(item_filter)
    hidden = {item, *model.indices_of(exclude)}
    query = model.neighbors.query_of([item])
    found = await asyncio.to_thread(model.neighbors.search, query, offset + n, eligible, hidden)
    return _ranked(model, *_still_allowed(model, item_filter, *found), "neighbors", offset)


async def popular_items(
    model: ServedModel, popular: PopularItems, n: int, offset: int, item_filter: ItemFilter, exclude: Iterable[str]
) -> list[RankedItem]:
    """The most popular items; scores are event counts."""
    eligible = await model.eligibility.items(item_filter)
    found = popular.top(offset + n, eligible.mask, set(model.indices_of(exclude)))
    return _ranked(model, *_still_allowed(model, item_filter, *found), "popular", offset)


def _still_allowed(
    model: ServedModel, item_filter: ItemFilter, items: NDArray[np.int32], scores: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.int32], NDArray[np.floating[Any]]]:
    # Items may have changed while the search went on.
    allowed = model.eligibility.allowed(item_filter, items)
    return items[allowed], scores[allowed]


async def latest_items(
    model: ServedModel, n: int, offset: int, item_filter: ItemFilter, exclude: Iterable[str]
) -> list[RankedItem]:
    """The newest items; scores are Unix seconds, 0 where unknown."""
    eligible = await model.eligibility.items(item_filter)
    found = await asyncio.to_thread(model.latest.top, offset + n, eligible.mask, set(model.indices_of(exclude)))
    return _ranked(model, *_still_allowed(model, item_filter, *found), "latest", offset)


def _ranked(
    model: ServedModel, items: NDArray[np.int32], scores: NDArray[np.floating[Any]], reason: Reason, offset: int
) -> list[RankedItem]:
    page, ids = items[offset:].tolist(), model.catalog.item_ids
    rows = zip(page, scores[offset:].tolist(), model.codes_of(page), strict=True)
    return [
        RankedItem(ids[item], rank, score, code, reason) for rank, (item, score, code) in enumerate(rows, offset + 1)
    ]
