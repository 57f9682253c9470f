"""Keep the cache fresh: refresh who is worth it, round after round, as traffic goes on.

A round reads who has news and who is in demand, now and then scans the whole cache too, and refreshes for one interval
at most, those most worth it first. While less of the traffic than the target is answered from fresh entries, one round
follows the other; else the loop rests between them.
"""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from model_store.cache_keys import Keys
from model_store.errors import TesseraError
from offline.progress import say
from offline.redis_connection import REDIS_FAILURES
from offline.refresh.config import RefreshConfig
from offline.refresh.followed_version import FollowedVersion
from offline.refresh.metrics import WatchMetrics
from offline.refresh.priority import PriorityRule
from offline.refresh.selected_refresh import refresh_selected
from offline.refresh.selection import Selection, select_everyone, select_marked
from offline.refresh.served_share import fresh_share
from offline.refresh.watch_lock import WatchLock

_MOST_MARKED = 50_000
"""Users with news, and as many in demand, that a round looks at; a slice has no time for more."""
_MOST_SCANNED = 200_000
"""Users that are kept of a scan. When they are done and there were more, the next scan comes at once."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


@dataclass(frozen=True)
class WatchConfig:
    """Settings of the loop.

    Attributes:
        target: share of the answers to users with a history that should come from a fresh entry.
        interval_s: pause between rounds, and the time a round refreshes at most.
        scan_every_s: time between looks at the whole cache.
    """

    target: float = 0.95
    interval_s: float = 10.0
    scan_every_s: float = 600.0


class Watch:
    """The loop.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        version: what is refreshed, started.
        lock: held by the watcher that works.
        rule: when an entry is out of date.
        refresh_config: of the refreshes.
        config: of the loop.
        metrics: where it tells how it is doing.
    """

    def __init__(
        self,
        redis: Any,
        keys: Keys,
        version: FollowedVersion,
        lock: WatchLock,
        *,
        rule: PriorityRule,
        refresh_config: RefreshConfig,
        config: WatchConfig,
        metrics: WatchMetrics,
    ) -> None:
        self._redis, self._keys, self._version, self._lock = redis, keys, version, lock
        self._rule, self._refresh_config, self._config, self._metrics = rule, refresh_config, config, metrics
        self._scanned = Selection.nobody()
        self._scan_at = 0.0

    def run(self, stop: Event) -> None:
        """Go on until `stop` is set; the batch under way is finished. Redis may go and come back meanwhile."""
        failures = 0
        while not stop.is_set():
            try:
                pause_s = self.round(stop)
                failures = 0
            except REDIS_FAILURES as error:
                pause_s = min(_FIRST_PAUSE_S * 2**failures, _LONGEST_PAUSE_S)
                failures = min(failures + 1, 16)
                self._metrics.errors.labels("redis").inc()
                self._metrics.fresh_share.set(float("nan"))
                _log("ERROR", "round given up", reason=_reason(error), pause_s=pause_s)
            stop.wait(pause_s)
        try:
            self._lock.release()
        except REDIS_FAILURES as error:
            _log("WARNING", "lock not released, it expires", reason=_reason(error))

    def round(self, stop: Event) -> float:
        """Measure, select, refresh for one interval, report. Returns how long to pause.

        Raises:
            RedisError: Redis fails; what was written stays.
        """
        began = time.monotonic()
        share = self._measure()
        if not self._lock.hold():
            _log("INFO", "standing by, another watcher works", fresh_share=share)
            return self._config.interval_s
        self._follow()
        scanned = self._scan_if_due()
        version = self._version.open
        marked = select_marked(
            self._redis, self._keys, version.bundle, self._rule, most=_MOST_MARKED, shown=version.refresh.shown
        )
        due = self._scanned.merged(marked)
        done, reasons = self._refresh(due, stop)
        waiting = due.found - done
        seconds = time.monotonic() - began
        self._metrics.waiting.set(waiting)
        self._metrics.round_seconds.observe(seconds)
        _log(
            "INFO",
            "round",
            version=version.bundle.version,
            fresh_share=share,
            users=sum(reasons.values()),
            reasons=reasons,
            waiting=waiting,
            scanned=scanned,
            seconds=round(seconds, 3),
        )
        behind = share is not None and share < self._config.target
        # Without anyone left, going round faster would not help.
        return 0.0 if behind and done and waiting else self._config.interval_s

    def _measure(self) -> float | None:
        now = time.time()
        share = fresh_share(self._redis, self._keys, now)
        oldest = self._redis.zrange(self._keys.dirty, 0, 0, withscores=True)
        self._metrics.fresh_share.set(float("nan") if share is None else share)
        self._metrics.oldest_dirty_seconds.set(max(now - oldest[0][1], 0) if oldest else 0)
        return None if share is None else round(share, 4)

    def _follow(self) -> None:
        try:
            changed = self._version.follow()
        except TesseraError as error:
            self._metrics.errors.labels("version").inc()
            _log("ERROR", "cannot refresh the active version, the one before goes on", reason=str(error))
            return
        if changed:
            _log("INFO", "another version is active", version=self._version.open.bundle.version)
            self._scanned, self._scan_at = Selection.nobody(), 0.0

    def _scan_if_due(self) -> bool:
        used_up = not self._scanned.users and self._scanned.found
        if not used_up and time.monotonic() < self._scan_at:
            return False
        self._scanned = select_everyone(
            self._redis,
            self._keys,
            self._version.open.bundle,
            self._rule,
            most=_MOST_SCANNED,
            histories=False,
            shown=self._version.open.refresh.shown,
            every_part=self._hold,
        )
        self._scan_at = time.monotonic() + self._config.scan_every_s
        return True

    def _refresh(self, due: Selection, stop: Event) -> tuple[int, dict[str, int]]:
        """Refresh users in order, for one interval. Returns how many it came to, and those written by reason."""
        version, config = self._version.open, self._refresh_config
        written, done = list[int](), 0
        batches = refresh_selected(
            version.refresh,
            version.bundle.entry_layout,
            due,
            batch_users=config.shard_users,
            until=time.monotonic() + self._config.interval_s,
        )
        try:
            for batch in batches:
                done = batch.rows.stop
                written += batch.written
                for reason, users in due.count_reasons(batch.written).items():
                    self._metrics.users.labels(reason).inc(users)
                self._hold()
                if stop.is_set():
                    break
        finally:
            self._scanned = self._scanned.without(set(due.users[:done]))
        return done, due.count_reasons(written)

    def _hold(self) -> None:
        # Whoever has the lock now does no harm beside us, and has it from the next round on.
        self._lock.hold()


def _reason(error: Exception) -> str:
    # What the client says of a connection names the address.
    away = isinstance(error, RedisConnectionError | RedisTimeoutError)
    return type(error).__name__ if away else str(error)


def _log(level: str, message: str, **fields: object) -> None:
    """One JSON line, as the API writes them."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    say(json.dumps({"time": now, "level": level, "message": message, **fields}))
