"""One worker of a namespace works and is heard of; the others stand by and take over when it is gone."""

import secrets
from typing import Any

from model_store.cache_keys import Keys
from model_store.refresh_jobs import WORKER_EXPIRY_S


class WorkerLock:
    """A key with an expiry, which its holder puts off: the lock and the heartbeat in one.

    Between looking at it and putting it off another may have taken it; then two hold it until the next look.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        expiry_s: after which the others take over from a holder that is gone.
    """

    def __init__(self, redis: Any, keys: Keys, expiry_s: int = WORKER_EXPIRY_S) -> None:
        self._redis = redis
        self._key = keys.refresh_worker
        self._expiry_s = expiry_s
        self._token = secrets.token_hex(8).encode()

    def hold(self) -> bool:
        """Take it, or keep it. Returns whether it is ours.

        Raises:
            RedisError: Redis fails.
        """
        holder = self._redis.get(self._key)
        if holder == self._token:
            self._redis.expire(self._key, self._expiry_s)
            return True
        return holder is None and bool(self._redis.set(self._key, self._token, nx=True, ex=self._expiry_s))

    def release(self) -> None:
        """Let the next one begin at once.

        Raises:
            RedisError: Redis fails; it expires by itself.
        """
        if self._redis.get(self._key) == self._token:
            self._redis.delete(self._key)
