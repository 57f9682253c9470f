"""Which items may be shown: the one filter that every path to an answer goes through.

Two parts, because they cost differently. What is the same for everyone (hidden, stock, category, price) is a mask over
the catalogue, made once per distinct filter and kept. What is one user's own (seen, excluded) is a short set of item
indices that is looked up, never turned into a mask.

The catalogue is as published; what has changed of its items since comes in as records (`model_store.item_records`) and
holds at once. A mask that was kept, or that somebody took before, may be older, so whoever answers asks `allowed` last.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.item_records import ItemRecord, is_withheld
from model_store.prefix_trie import EligibleItems, PrefixTrie

_BYTES_PER_ITEM = 5
"""Of one EligibleItems: a bool and an int32."""
_CHECKED_AT_MOST = 10_000
"""Changed items times kept masks; beyond, masks are built again rather than looked at."""


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
        self.revision = 0
        """Grows when an item changes in a way that a filter sees."""
        self._withheld = np.zeros(len(catalog), dtype=np.bool_)
        self._available = np.array(catalog.available)
        self._in_stock = np.array(catalog.available)
        """Available and not withheld: one look for what nearly every request asks."""
        self.in_stock = cast(Sequence[bool], memoryview(self._in_stock))  # type: ignore[arg-type]
        """The same for a look at a few items, for which NumPy takes longer; bool [N]. To be read only."""
        self._prices = np.array(catalog.prices)
        self._recategorised = np.zeros(len(catalog), dtype=np.bool_)
        self._categories: dict[int, frozenset[str]] = {}
        """Of the items that are in other categories than the catalogue says."""

    async def items(self, item_filter: ItemFilter) -> EligibleItems:
        """Every item that passes, as the decoder and the fallbacks take it."""
        kept = self._kept.get(item_filter)
        if kept is None:
            # A pass over the catalogue: milliseconds for a million items, too long for the event loop.
            revision = self.revision
            kept = await asyncio.to_thread(self._build, item_filter)
            if revision != self.revision:
                return kept
            self._kept[item_filter] = kept
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(item_filter)
        return kept

    def apply(self, records: Mapping[str, ItemRecord | None]) -> None:
        """Take over what has changed of items; those that the catalogue does not have are left out."""
        items = [self._take(self._catalog.index_of(i), record) for i, record in records.items() if i in self._catalog]
        if not items:
            return
        self.revision += 1
        if len(self._kept) * len(items) > _CHECKED_AT_MOST:
            self._kept.clear()
            return
        changed = np.array(items)
        for item_filter, kept in list(self._kept.items()):
            if not np.array_equal(kept.mask[changed], self.allowed(item_filter, changed)):
                del self._kept[item_filter]

    def allowed(self, item_filter: ItemFilter, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these few items pass; bool, the shape of `items`."""
        passed: NDArray[np.bool_] = self._in_stock[items] if item_filter.in_stock else ~self._withheld[items]
        for check in self._checks(item_filter, items).values():
            passed = passed & check
        return passed

    def removed(self, item_filter: ItemFilter, items: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
        """Which of these items each rule removes, for an explanation; bool, the shape of `items`, by rule."""
        checks = {"hidden": ~self._withheld[items]}
        if item_filter.in_stock:
            checks["out_of_stock"] = self._available[items]
        checks |= self._checks(item_filter, items)
        return {name: ~passed for name, passed in checks.items()}

    def prepare(self) -> None:
        """Build what the first category filter would wait for."""
        _ = self._members

    def _build(self, item_filter: ItemFilter) -> EligibleItems:
        return EligibleItems.from_mask(self._trie, self.allowed(item_filter, np.arange(len(self._catalog))))

    def _checks(self, item_filter: ItemFilter, items: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
        """What a filter asks beyond stock; by name, bool of the shape of `items`."""
        checks: dict[str, NDArray[np.bool_]] = {}
        if item_filter.price_min is not None or item_filter.price_max is not None:
            prices = self._prices[items]
            low = -np.inf if item_filter.price_min is None else item_filter.price_min
            high = np.inf if item_filter.price_max is None else item_filter.price_max
            # NaN, the unknown price, compares as False with both. What is too large for a price becomes infinite.
            with np.errstate(over="ignore"):
                checks["price"] = (prices >= np.float32(low)) & (prices <= np.float32(high))
        if item_filter.categories:
            nobody = np.empty(0, dtype=np.int32)
            inside = np.logical_and.reduce(
                [np.isin(items, self._members.get(category, nobody)) for category in item_filter.categories]
            )
            for at in np.flatnonzero(self._recategorised[items]).tolist():
                inside[at] = item_filter.categories <= self._categories.get(int(items[at]), frozenset())
            checks["category"] = inside
        return checks

    def _take(self, item: int, record: ItemRecord | None) -> int:
        said = record or {}
        price = said.get("price", self._catalog.prices[item])
        self._withheld[item] = withheld = is_withheld(said)
        self._available[item] = available = said.get("in_stock", self._catalog.available[item])
        self._in_stock[item] = available and not withheld
        self._prices[item] = np.nan if price is None else price
        self._recategorised[item] = "categories" in said
        if "categories" in said:
            self._categories[item] = frozenset(said["categories"])
        else:
            self._categories.pop(item, None)
        return item

    @cached_property
    def _members(self) -> dict[str, NDArray[np.int32]]:
        members: dict[str, list[int]] = {}
        for item, categories in enumerate(self._catalog.categories):
            for category in categories:
                members.setdefault(category, []).append(item)
        return {category: np.array(items, dtype=np.int32) for category, items in members.items()}
