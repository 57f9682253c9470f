"""What is exported, some rows at a time: events and users from Redis, items from a published version."""

import json
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from model_store.bundle import Bundle
from model_store.cache_entries import EntryTable
from model_store.cache_keys import EntryLayout, Keys
from model_store.item_codes import code_text
from offline.refresh.entry_scan import scan_entries
from offline.refresh.histories import users_with_history

_ROWS = 1000

EVENTS = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("position", pa.int64())])
ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("price", pa.float64()),
        ("attributes", pa.string()),
        ("available", pa.bool_()),
        ("code", pa.string()),
    ]
)
USERS = pa.schema(
    [
        ("user_id", pa.string()),
        ("history_length", pa.int64()),
        ("has_entry", pa.bool_()),
        ("entry_age_s", pa.int64()),
        ("decoded_at", pa.int64()),
    ]
)

Rows = list[dict[str, Any]]


def event_rows(redis: Any, keys: Keys) -> Iterator[Rows]:
    """Every history in Redis, oldest first. Times are not kept there; `position` counts from 0.

    Raises:
        RedisError: Redis fails.
    """
    users = users_with_history(redis, keys)
    while some := _distinct(users):
        pipeline = redis.pipeline(transaction=False)
        for user in some:
            pipeline.lrange(keys.history(user), 0, -1)
        histories = pipeline.execute()
        yield [
            {"user_id": user, "item_id": item.decode(errors="replace"), "position": position}
            for user, history in zip(some, histories, strict=True)
            for position, item in enumerate(history)
        ]


def item_rows(bundle: Bundle, changes: Mapping[str, Mapping[str, Any]]) -> Iterator[Rows]:
    """The items of a version, in index order, deleted ones left out.

    Args:
        bundle: the version.
        changes: by item id, the fields that were changed since it was published: title, text, categories, price,
            attributes, in_stock, deleted. Items that the version does not have are not exported.
    """
    catalog, codes_NL = bundle.catalog, bundle.item_codes.codes_NL
    indices = iter(range(len(catalog)))
    while some := list(islice(indices, _ROWS)):
        rows = []
        for index in some:
            item_id = catalog.item_ids[index]
            changed = changes.get(item_id, {})
            if changed.get("deleted"):
                continue
            price = None if np.isnan(catalog.prices[index]) else float(catalog.prices[index])
            attributes = changed.get("attributes", catalog.attributes[index])
            rows.append(
                {
                    "item_id": item_id,
                    "title": changed.get("title", catalog.titles[index]),
                    "text": changed.get("text", catalog.texts[index]),
                    "categories": list(changed.get("categories", catalog.categories[index])),
                    "price": changed.get("price", price),
                    "attributes": json.dumps(attributes, ensure_ascii=False, sort_keys=True),
                    "available": bool(changed.get("in_stock", catalog.available[index])),
                    "code": code_text(codes_NL[index]),
                }
            )
        yield rows


def user_rows(redis: Any, keys: Keys, layout: EntryLayout | None) -> Iterator[Rows]:
    """Everyone with a history, and everyone else with an entry of the served version.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        layout: where the served version's entries are; None without one, and then nobody has an entry.

    Raises:
        RedisError: Redis fails.
    """
    users = users_with_history(redis, keys)
    while some := _distinct(users):
        pipeline = redis.pipeline(transaction=False)
        for user in some:
            pipeline.llen(keys.history(user))
        lengths = pipeline.execute()
        entries: list[bytes | None] = [None] * len(some)
        if layout is not None:
            for user in some:
                pipeline.hget(keys.bucket_of(layout, user), user)
            entries = pipeline.execute()
        table = EntryTable.unpack([entry or b"" for entry in entries])
        yield _users(some, lengths, table)
    if layout is None:
        return
    for cached in scan_entries(redis, keys, layout):
        pipeline = redis.pipeline(transaction=False)
        for user in cached.users:
            pipeline.exists(keys.history(user))
        without = [not there for there in pipeline.execute()]
        rows = _users(cached.users, [0] * len(cached.users), cached.entries)
        yield [row for row, chosen in zip(rows, without, strict=True) if chosen]


def _users(users: list[str], lengths: list[int], entries: EntryTable) -> Rows:
    now = int(time.time())
    rows: Rows = []
    for row, (user, length) in enumerate(zip(users, lengths, strict=True)):
        # An entry of another format is none: nobody is answered from it.
        at = int(entries.decoded_at[row]) if entries.readable[row] else None
        age = None if at is None else max(now - at, 0)
        rows.append(
            {
                "user_id": user,
                "history_length": length,
                "has_entry": at is not None,
                "entry_age_s": age,
                "decoded_at": at,
            }
        )
    return rows


def _distinct(users: Iterator[str]) -> list[str]:
    """The next users; a scan may give one twice, mostly close together."""
    return list(dict.fromkeys(islice(users, _ROWS)))
