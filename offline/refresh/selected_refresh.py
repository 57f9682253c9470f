"""Refresh selected users, most worth first, for as long as there is time.

No ledger: whoever is done is no longer worth a refresh, so a run that was stopped goes on when it is given again.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from model_store.cache_keys import EntryLayout
from model_store.errors import TesseraError
from offline.progress import progress
from offline.redis_connection import REDIS_FAILURES
from offline.refresh.config import RefreshConfig
from offline.refresh.selection import Selection
from offline.refresh.user_refresh import UserRefresh

_FIRST_BATCH = 16
_BATCH_S = 5.0
"""About how long a batch may take where there is a limit of time: so late a run may end, or notice that it should."""


@dataclass(frozen=True)
class BatchDone:
    """Users who were refreshed together.

    Attributes:
        rows: theirs in the selection, of all of the batch.
        written: those who got an entry; the others know no item of the version, or have no history any more.
    """

    rows: range
    written: list[int]


@dataclass(frozen=True)
class SelectedSummary:
    """What `tessera refresh --stale --json` prints.

    Attributes:
        version: the version whose entries were renewed.
        users: entries written.
        skipped: users without an item that this version knows.
        left: users found worth a refresh and not come to.
        reasons: of the entries written, how many for which reason.
        k: items kept for each.
        seconds: of the refresh, the selection and start-up of the model left out.
        users_per_second: users done, by these seconds.
        candidates: items of each user that a ranker ordered; None without one.
    """

    version: str
    users: int
    skipped: int
    left: int
    reasons: dict[str, int]
    k: int
    seconds: float
    users_per_second: float
    candidates: int | None = None


def refresh_selected(
    refresh: UserRefresh, layout: EntryLayout, selection: Selection, *, batch_users: int, until: float | None = None
) -> Iterator[BatchDone]:
    """Refresh the users of a selection in order. Stops after a batch when the iterator is dropped.

    Args:
        refresh: does the work.
        layout: of the version.
        selection: of whom.
        batch_users: users of a batch at most; with a limit of time batches begin small and last some seconds.
        until: no batch begins after this time of `time.monotonic`; the one under way is finished.

    Raises:
        RedisError: Redis fails or is full; batches before are written.
    """
    start, size = 0, batch_users if until is None else min(batch_users, _FIRST_BATCH)
    while start < len(selection.users):
        began = time.monotonic()
        if until is not None and began >= until:
            return
        users = selection.users[start : start + size]
        reading = refresh.read(users)
        refresh.write(reading, refresh.decode(reading))
        refresh.clear_marks(reading)
        if len(reading.known) < len(users):
            known = set(reading.known)
            # Entries that nobody can renew, because the history has expired, would be selected for ever.
            refresh.forget_departed({layout.bucket_of(user) for row, user in enumerate(users) if row not in known}, ())
        yield BatchDone(range(start, start + len(users)), [start + row for row in reading.known])
        start += len(users)
        if until is not None:
            now = time.monotonic()
            fitting = len(users) * min(_BATCH_S, max(until - now, 0)) / max(now - began, 1e-6)
            size = int(min(max(fitting, _FIRST_BATCH), batch_users))


def run_selected_refresh(
    version: str,
    refresh: UserRefresh,
    layout: EntryLayout,
    selection: Selection,
    *,
    config: RefreshConfig,
    budget_s: float | None = None,
) -> SelectedSummary:
    """Refresh the users of a selection, and tell how far it came.

    Args:
        version: which.
        refresh: does the work.
        layout: of the version.
        selection: of whom.
        config: of the refresh.
        budget_s: time for it; the batch under way is finished.

    Raises:
        TesseraError: Redis fails or is full; what was written stays.
    """
    started = time.monotonic()
    until = None if budget_s is None else started + budget_s
    done, written = 0, list[int]()
    try:
        with progress(f"refresh {version}", len(selection.users), "users") as advance:
            batches = refresh_selected(refresh, layout, selection, batch_users=config.shard_users, until=until)
            for batch in batches:
                done += len(batch.rows)
                written += batch.written
                advance(len(batch.rows))
    except REDIS_FAILURES as error:
        raise TesseraError(
            f"refresh of {version} stopped, Redis said: {error}; what was written stays, "
            "the same command goes on with the others"
        ) from error
    seconds = time.monotonic() - started
    return SelectedSummary(
        version=version,
        users=len(written),
        skipped=done - len(written),
        left=selection.found - done,
        reasons=selection.count_reasons(written),
        k=config.k,
        seconds=round(seconds, 3),
        users_per_second=round(done / seconds, 1) if seconds else 0.0,
        candidates=config.candidates,
    )
