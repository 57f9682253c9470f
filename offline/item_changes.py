"""Changes of items that the service has taken since their catalogue was published, as a batch job reads them."""

import time
from collections.abc import Mapping
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.cache_keys import Keys
from model_store.item_log import BEGINNING, fold_entry, format_next, parse_id
from model_store.item_records import ItemRecord, is_withheld
from model_store.prefix_trie import EligibleItems

_READ_TOGETHER = 1000
_UNREAD_S = 60.0
"""The service cuts off what is older than ten minutes: whoever has not read for so long reads everything anew."""
_ANEW_S = 600.0
"""A Redis that died may have lost changes. So long they are believed."""


class ItemChanges:
    """The records of all changed items, read on whenever asked.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
    """

    def __init__(self, redis: Any, keys: Keys) -> None:
        self._redis, self._keys = redis, keys
        self._records: dict[str, ItemRecord] = {}
        self._cursor = BEGINNING
        self._read_at = self._begun_at = -float("inf")

    @property
    def records(self) -> Mapping[str, ItemRecord]:
        """By item id, as of the last `read_on`."""
        return MappingProxyType(self._records)

    def read_on(self) -> bool:
        """Read what has been accepted until now; whether there may be news.

        Raises:
            RedisError: Redis fails.
        """
        now, before = time.monotonic(), self._cursor
        anew = now - self._read_at > _UNREAD_S or now - self._begun_at > _ANEW_S
        if anew:
            self._begin()
            self._begun_at = now
        while entries := self._redis.xrange(self._keys.items_log, min=format_next(self._cursor), count=_READ_TOGETHER):
            for entry in entries:
                self._cursor = fold_entry(self._records, self._cursor, entry)
        self._read_at = now
        return anew or self._cursor != before

    def _begin(self) -> None:
        # The position first: the snapshot may be ahead of it, never behind.
        upto = self._redis.get(self._keys.items_upto)
        packed = self._redis.hscan_iter(self._keys.items, count=_READ_TOGETHER)
        self._records = {item_id.decode(): orjson.loads(record) for item_id, record in packed}
        self._cursor = parse_id(upto) if upto else BEGINNING


class ShownItems:
    """The items of a version that lists made ahead may hold: in stock, not hidden, not deleted. For several threads.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        bundle: the version.
    """

    def __init__(self, redis: Any, keys: Keys, bundle: Bundle) -> None:
        self._bundle, self._changes = bundle, ItemChanges(redis, keys)
        self._lock = Lock()
        self._mask = bundle.catalog.available
        self._eligible: EligibleItems | None = None

    def mask(self) -> NDArray[np.bool_]:
        """Which items they are now; bool [N], never altered afterwards.

        Raises:
            RedisError: Redis fails.
        """
        with self._lock:
            self._read_on()
            return self._mask

    def eligible(self) -> EligibleItems | None:
        """The same for a decoder, None where it is every item; the same object as long as nothing changes.

        Raises:
            RedisError: Redis fails.
        """
        with self._lock:
            self._read_on()
            if self._eligible is None and not self._mask.all():
                self._eligible = EligibleItems.from_mask(self._bundle.trie, self._mask)
            return self._eligible

    def _read_on(self) -> None:
        if not self._changes.read_on():
            return
        mask = shown_mask(self._bundle, self._changes.records)
        if not np.array_equal(mask, self._mask):
            self._mask, self._eligible = mask, None


def shown_mask(bundle: Bundle, records: Mapping[str, ItemRecord]) -> NDArray[np.bool_]:
    """Which items of a version may be shown after these changes; bool [N]."""
    catalog = bundle.catalog
    mask = np.array(catalog.available)
    for item_id, record in records.items():
        if item_id in catalog:
            item = catalog.index_of(item_id)
            mask[item] = record.get("in_stock", bool(mask[item])) and not is_withheld(record)
    return mask
