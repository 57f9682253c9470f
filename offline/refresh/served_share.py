"""The share of traffic that was served fresh, from what the API counts by the minute."""

from typing import Any

from model_store.cache_keys import Keys

_MINUTES = 5


def fresh_share(redis: Any, keys: Keys, now: float) -> float | None:
    """Fresh answers by all answers to users with a history, of the minute that runs and the four before.

    None where nothing was counted: no API runs, or nobody asks.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        now: Unix seconds.

    Raises:
        RedisError: Redis fails.
    """
    minute = int(now) // 60
    pipeline = redis.pipeline(transaction=False)
    for back in range(_MINUTES):
        pipeline.hmget(keys.served(minute - back), "fresh", "all")
    counted = [[int(count or 0) for count in counts] for counts in pipeline.execute()]
    fresh, answers = (sum(counts) for counts in zip(*counted, strict=True))
    return fresh / answers if answers else None
