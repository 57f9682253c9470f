"""Lists that are about items, not about a user: similar and popular."""

import asyncio
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from app.eligibility import ItemFilter
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
    model: ServedModel, n: int, offset: int, item_filter: ItemFilter, exclude: Iterable[str]
) -> list[RankedItem]:
    """The most popular items; scores are event counts."""
    eligible = await model.eligibility.items(item_filter)
    found = model.popular.top(offset + n, eligible.mask, set(model.indices_of(exclude)))
    return _ranked(model, *_still_allowed(model, item_filter, *found), "popular", offset)


def _still_allowed(
    model: ServedModel, item_filter: ItemFilter, items: NDArray[np.int32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    # Items may have changed while the search went on.
    allowed = model.eligibility.allowed(item_filter, items)
    return items[allowed], scores[allowed]


def _ranked(
    model: ServedModel, items: NDArray[np.int32], scores: NDArray[np.float32], reason: Reason, offset: int
) -> list[RankedItem]:
    page, ids = items[offset:].tolist(), model.catalog.item_ids
    rows = zip(page, scores[offset:].tolist(), model.codes_of(page), strict=True)
    return [
        RankedItem(ids[item], rank, score, code, reason) for rank, (item, score, code) in enumerate(rows, offset + 1)
    ]
