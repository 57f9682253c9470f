"""Users' histories in Redis, and the users to refresh: from there, or from a file."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from offline.interactions import Dataset
from offline.progress import progress
from offline.refresh.config import RefreshConfig

_PIPELINE_COMMANDS = 1000
_SCAN_BATCH = 5000


def import_histories(redis: Any, keys: Keys, dataset: Dataset, config: RefreshConfig) -> None:
    """Bring the users' histories in Redis up to those of a data folder; see `merge_histories`."""
    item_ids = dataset.catalog.item_ids
    histories = (
        (user_id, [item_ids[item] for item in dataset.history(user)[-config.history_length :]])
        for user, user_id in enumerate(dataset.user_ids)
    )
    with progress("histories", len(dataset.user_ids), "users") as advance:
        while some := list(islice(histories, _PIPELINE_COMMANDS)):
            merge_histories(redis, keys, some, config)
            advance(len(some))


def merge_histories(
    redis: Any, keys: Keys, histories: Sequence[tuple[str, Sequence[str]]], config: RefreshConfig
) -> None:
    """Bring some users' histories in Redis up to others, oldest first; done twice, it is as done once.

    What Redis alone knows is kept: items that a user's stored history has and the other has not stay, as the newest.
    """
    pipeline = redis.pipeline(transaction=False)
    for user_id, _ in histories:
        pipeline.lrange(keys.history(user_id), 0, -1)
    stored = pipeline.execute()
    for (user_id, items), before in zip(histories, stored, strict=True):
        imported = list(items)[-config.history_length :]
        known = set(imported)
        news = [item for item in (raw.decode() for raw in before) if item not in known]
        merged = (imported + news)[-config.history_length :]
        key = keys.history(user_id)
        if merged and merged != [raw.decode() for raw in before]:
            pipeline.delete(key)
            pipeline.rpush(key, *merged)
            pipeline.expire(key, config.history_ttl_s)
    pipeline.execute()


def append_histories(
    redis: Any, keys: Keys, histories: Sequence[tuple[str, Sequence[str]]], config: RefreshConfig, now: float
) -> None:
    """Add items, oldest first, behind those of some users' histories, and mark the users as ones with news.

    Args:
        redis, keys, config: as ever.
        histories: items by user; a user once at most.
        now: Unix seconds.
    """
    pipeline = redis.pipeline(transaction=False)
    for user_id, items in histories:
        key = keys.history(user_id)
        pipeline.rpush(key, *items[-config.history_length :])
        pipeline.ltrim(key, -config.history_length, -1)
        pipeline.expire(key, config.history_ttl_s)
    if histories:
        pipeline.zadd(keys.dirty, dict.fromkeys((user_id for user_id, _ in histories), now), nx=True)
    pipeline.execute()


def users_with_history(redis: Any, keys: Keys) -> Iterator[str]:
    """Every user that Redis has a history of, in no order; one may come twice."""
    for key in redis.scan_iter(match=keys.histories(), count=_SCAN_BATCH):
        yield keys.user_of_history(key.decode())


def users_of_file(path: Path) -> Iterator[str]:
    """User ids of a file, one a line; one may come twice.

    Raises:
        TesseraError: the file cannot be read as text, or holds none.
    """
    empty = True
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if user := line.strip():
                    empty = False
                    yield user
    except (OSError, UnicodeDecodeError) as error:
        raise TesseraError(f"--users {path}: {error}") from None
    if empty:
        raise TesseraError(f"--users {path}: no user id in it; expected one a line")
