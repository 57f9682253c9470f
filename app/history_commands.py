"""The Redis commands that record events of users: into their histories, and into the set of those with news."""

import time
from collections.abc import Collection, Iterable, Sequence

from redis.asyncio.client import Pipeline

from app.settings import Settings
from model_store.cache_keys import Keys


def add_events(pipeline: Pipeline, keys: Keys, settings: Settings, events: Iterable[tuple[str, str]]) -> None:
    """Record (user id, item id) events, oldest first. Doing it again repeats items at worst."""
    items_of: dict[str, list[str]] = {}
    for user_id, item_id in events:
        items_of.setdefault(user_id, []).append(item_id)
    if not items_of:
        return
    for user_id, items in items_of.items():
        add_to_history(pipeline, keys, settings, user_id, items)
    mark_dirty(pipeline, keys, settings, items_of)


def add_to_history(pipeline: Pipeline, keys: Keys, settings: Settings, user_id: str, items: Sequence[str]) -> None:
    """Append item ids to a history, and bound it."""
    if not items:
        return
    key = keys.history(user_id)
    pipeline.rpush(key, *items)
    pipeline.ltrim(key, -settings.history_length, -1)
    pipeline.expire(key, settings.history_ttl_s)


def mark_dirty(pipeline: Pipeline, keys: Keys, settings: Settings, user_ids: Collection[str]) -> None:
    """Mark users who have news."""
    now = time.time()
    pipeline.zadd(keys.dirty, dict.fromkeys(user_ids, now), nx=True)
    # Whoever has been dirty for so long has no history any more; this bounds the set.
    pipeline.zremrangebyscore(keys.dirty, "-inf", now - settings.history_ttl_s)
    for user_id in user_ids:
        # Blocks and reads live as long as the history.
        pipeline.expire(keys.withheld(user_id), settings.history_ttl_s)
