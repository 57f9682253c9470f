"""Which items may be shown: the one filter that every path to an answer goes through.

Two parts, because they cost differently. What is the same for everyone (stock, category, price) is a mask over the
catalogue, made once per distinct filter and kept. What is one user's own (seen, excluded) is a short set of item
indices that is looked up, never turned into a mask.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.prefix_trie import EligibleItems, PrefixTrie

_BYTES_PER_ITEM = 5
"""Of one EligibleItems: a bool and an int32."""


@dataclass(frozen=True)
class ItemFilter:
    """What a caller asks of every item.

    Attributes:
        categories: the item must be in all of these.
        price_min: lowest price, None for no bound. An item without a known price meets no bound.
        price_max: highest price, None for no bound.
        in_stock: False to show items that are out of stock too.
    """

    categories: frozenset[str] = frozenset()
    price_min: float | None = None
    price_max: float | None = None
    in_stock: bool = True


EVERYTHING_IN_STOCK = ItemFilter()


class Eligibility:
    """The catalogue-wide part of the filter, for one model version. N items; belongs to one event loop.

    Args:
        catalog: the items.
        trie: their codes; masks are counted along its leaves.
        cache_bytes: bound on the memory of kept masks.
    """

    def __init__(self, catalog: Catalog, trie: PrefixTrie, *, cache_bytes: int) -> None:
        self._catalog = catalog
        self._trie = trie
        self._capacity = max(cache_bytes // (_BYTES_PER_ITEM * max(len(catalog), 1)), 1)
        self._kept: OrderedDict[ItemFilter, EligibleItems] = OrderedDict()

    async def items(self, item_filter: ItemFilter) -> EligibleItems:
        """Every item that passes, as the decoder and the fallbacks take it."""
        kept = self._kept.get(item_filter)
        if kept is None:
            # A pass over the catalogue: milliseconds for a million items, too long for the event loop.
            kept = await asyncio.to_thread(self._build, item_filter)
            self._kept[item_filter] = kept
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(item_filter)
        return kept

    def allowed(self, item_filter: ItemFilter, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these few items pass; bool, the shape of `items`."""
        checks = self._checks(item_filter, items)
        if not checks:
            return np.ones(len(items), dtype=np.bool_)
        first, *others = checks.values()
        return np.logical_and.reduce([first, *others]) if others else first

    def removed(self, item_filter: ItemFilter, items: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
        """Which of these items each rule removes, for an explanation; bool, the shape of `items`, by rule."""
        return {name: ~passed for name, passed in self._checks(item_filter, items).items()}

    def prepare(self) -> None:
        """Build what the first category filter would wait for."""
        _ = self._members

    def _build(self, item_filter: ItemFilter) -> EligibleItems:
        return EligibleItems.from_mask(self._trie, self.allowed(item_filter, np.arange(len(self._catalog))))

    def _checks(self, item_filter: ItemFilter, items: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
        checks: dict[str, NDArray[np.bool_]] = {}
        if item_filter.in_stock:
            checks["out_of_stock"] = self._catalog.available[items]
        if item_filter.price_min is not None or item_filter.price_max is not None:
            prices = self._catalog.prices[items]
            low = -np.inf if item_filter.price_min is None else item_filter.price_min
            high = np.inf if item_filter.price_max is None else item_filter.price_max
            # NaN, the unknown price, compares as False with both. What is too large for a price becomes infinite.
            with np.errstate(over="ignore"):
                checks["price"] = (prices >= np.float32(low)) & (prices <= np.float32(high))
        if item_filter.categories:
            nobody = np.empty(0, dtype=np.int32)
            checks["category"] = np.logical_and.reduce(
                [np.isin(items, self._members.get(category, nobody)) for category in item_filter.categories]
            )
        return checks

    @cached_property
    def _members(self) -> dict[str, NDArray[np.int32]]:
        members: dict[str, list[int]] = {}
        for item, categories in enumerate(self._catalog.categories):
            for category in categories:
                members.setdefault(category, []).append(item)
        return {category: np.array(items, dtype=np.int32) for category, items in members.items()}
