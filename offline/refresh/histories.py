"""Users' histories in Redis, and the users to refresh: from there, or from a file."""

from collections.abc import Iterator
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
    """Bring the users' histories in Redis up to those of a data folder.

    What Redis alone knows is kept: items that a user's stored history has and the folder's has not stay, as the newest.
    """
    item_ids = dataset.catalog.item_ids
    with progress("histories", len(dataset.user_ids), "users") as advance:
        for start in range(0, len(dataset.user_ids), _PIPELINE_COMMANDS):
            users = range(start, min(start + _PIPELINE_COMMANDS, len(dataset.user_ids)))
            pipeline = redis.pipeline(transaction=False)
            for user in users:
                pipeline.lrange(keys.history(dataset.user_ids[user]), 0, -1)
            stored = pipeline.execute()
            for user, before in zip(users, stored, strict=True):
                imported = [item_ids[item] for item in dataset.history(user)[-config.history_length :]]
                known = set(imported)
                news = [item for item in (raw.decode() for raw in before) if item not in known]
                merged = (imported + news)[-config.history_length :]
                key = keys.history(dataset.user_ids[user])
                if merged and merged != [raw.decode() for raw in before]:
                    pipeline.delete(key)
                    pipeline.rpush(key, *merged)
                    pipeline.expire(key, config.history_ttl_s)
            pipeline.execute()
            advance(len(users))


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
