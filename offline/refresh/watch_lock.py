"""One watcher of a namespace works; the others stand by and take over when it is gone."""

from contextlib import suppress
from typing import Any

from redis.exceptions import LockError

from model_store.cache_keys import Keys

_EXPIRY_S = 60.0
"""Longer than a batch takes. A watcher that is away for longer, to load a model, may lose its turn: no harm is done."""


class WatchLock:
    """A key with an expiry that its holder puts off again and again.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        expiry_s: after which the others take over from a holder that is gone.
    """

    def __init__(self, redis: Any, keys: Keys, expiry_s: float = _EXPIRY_S) -> None:
        # Renewed from wherever the loop runs, so the token must not belong to a thread.
        self._lock = redis.lock(keys.watch, timeout=expiry_s, blocking=False, thread_local=False)

    def hold(self) -> bool:
        """Take it, or keep it. Returns whether it is ours.

        Raises:
            RedisError: Redis fails.
        """
        try:
            if self._lock.owned():
                self._lock.reacquire()
                return True
        except LockError:
            # It expired in between.
            pass
        return bool(self._lock.acquire())

    def release(self) -> None:
        """Let the next one begin at once.

        Raises:
            RedisError: Redis fails; it expires by itself.
        """
        # It may never have been ours, or have expired.
        with suppress(LockError):
            self._lock.release()
