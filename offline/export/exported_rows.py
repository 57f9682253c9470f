"""What is exported, some rows at a time: events and users from Redis, items from a published version."""

import json
import time
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from model_store.bundle import Bundle
from model_store.cache_entries import EntryTable
from model_store.cache_keys import EntryLayout, Keys
from model_store.item_codes import code_text
from model_store.item_records import ItemRecord
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


def item_rows(bundle: Bundle, changes: Mapping[str, ItemRecord]) -> Iterator[Rows]:
    """The items of a version in index order, then those that it does not have, by id; deleted ones are left out.

    Args:
        bundle: the version.
        changes: what was changed since it was published, by item id.
    """
    catalog = bundle.catalog
    new = sorted(item_id for item_id, record in changes.items() if item_id not in catalog and "title" in record)
    item_ids = chain(catalog.item_ids, new)
    while some := list(islice(item_ids, _ROWS)):
        yield [
            _item_row(bundle, item_id, changes.get(item_id, {}))
            for item_id in some
            if not changes.get(item_id, {}).get("deleted")
        ]


def _item_row(bundle: Bundle, item_id: str, changed: ItemRecord) -> dict[str, Any]:
    published = _published(bundle, item_id) if item_id in bundle.catalog else _placed(bundle, changed)
    row = {name: changed.get(name, published[name]) for name in ("title", "text", "categories", "price", "attributes")}
    return {
        "item_id": item_id,
        **row,
        "attributes": json.dumps(row["attributes"], ensure_ascii=False, sort_keys=True),
        "available": bool(changed.get("in_stock", published["available"])),
        "code": published["code"],
    }


def _published(bundle: Bundle, item_id: str) -> dict[str, Any]:
    catalog, index = bundle.catalog, bundle.catalog.index_of(item_id)
    return {
        "title": catalog.titles[index],
        "text": catalog.texts[index],
        "categories": list(catalog.categories[index]),
        "price": None if np.isnan(catalog.prices[index]) else float(catalog.prices[index]),
        "attributes": catalog.attributes[index],
        "available": catalog.available[index],
        "code": code_text(bundle.item_codes.codes_NL[index]),
    }


def _placed(bundle: Bundle, changed: ItemRecord) -> dict[str, Any]:
    """What is known beside its record of an item that the version does not have: its code, if it has one there."""
    code = None
    if "place" in changed and changed["place"]["line"] == bundle.cache_version:
        code = code_text(np.array(changed["place"]["code"], dtype=np.uint8))
    nothing: dict[str, Any] = {"title": "", "text": "", "categories": [], "price": None, "attributes": {}}
    return nothing | {"available": True, "code": code}


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
