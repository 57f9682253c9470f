"""Fill a version's cache: every listed user's top-K items, decoded and stored in Redis.

Users are cut into shards. A shard is decoded, written, and then entered in the ledger, so a killed refresh goes on with
`resume` where it was and redoes at most the shards under way. Reading the next shard and writing the one before go on
beside the decode.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from model_store.errors import TesseraError
from offline.progress import Advance, progress, say
from offline.redis_connection import REDIS_FAILURES
from offline.refresh.ledger import Ledger, Plan, ShardDone
from offline.refresh.shard_refresh import ShardRefresh
from offline.refresh.user_plan import Shard, UserPlan
from offline.refresh.user_refresh import Reading

Observe = Callable[[int, int, int, float], None]
"""Told after each shard: users listed, entries written, users skipped, users a second of this run."""
ShardRuns = Callable[[Iterator[Shard]], Iterator[tuple[Shard, ShardDone]]]
"""Refreshes shards, on whatever machines, and enters them in the ledger; gives back each that is done, in any order."""

Result = TypeVar("Result")

_SHARDS_AHEAD = 2


@dataclass(frozen=True)
class RefreshSummary:
    """What `tessera refresh --json` prints.

    Attributes:
        version: the version that was filled.
        users: entries written, those of a resumed refresh's earlier part included.
        skipped: users without an item that this version knows; popular items answer them.
        coverage: share of all listed users who have an entry now.
        k: items kept for each.
        seconds: of this command, histories and start-up of the model left out.
        users_per_second: users this command decoded, by its seconds.
        candidates: items of each user that a ranker ordered; None without one.
    """

    version: str
    users: int
    skipped: int
    coverage: float
    k: int
    seconds: float
    users_per_second: float
    candidates: int | None = None


def run_refresh(
    version: str,
    users: UserPlan,
    run: ShardRuns,
    ledger: Ledger,
    plan: Plan,
    *,
    resume: bool = False,
    observe: Observe | None = None,
) -> RefreshSummary:
    """Refresh all listed users.

    Args:
        version: which.
        users: of whom.
        run: does the work.
        ledger: of this version.
        plan: how users are cut into shards if nothing is resumed.
        resume: go on behind the last run, which was stopped.
        observe: told how far it is.

    Raises:
        TesseraError: Redis fails or is full; what was written stays, and `resume` goes on behind it. Also when `resume`
            finds the ledger of other settings.
    """
    started = time.monotonic()
    try:
        unfinished = ledger.resume(plan) if resume else None
        if unfinished is None:
            if resume:
                say(f"refresh --resume: nothing unfinished for {version}, starting from the first user")
            ledger.begin(plan)
            unfinished = plan, {}
        plan, before = unfinished
        written, skipped = sum(one.written for one in before.values()), sum(one.skipped for one in before.values())
        earlier = written + skipped
        with progress(f"refresh {version}", users.users, "users") as advance:
            for shard, result in run(_left(users.shards(plan.buckets_per_shard), before, advance)):
                written, skipped = written + result.written, skipped + result.skipped
                advance(len(shard.users))
                if observe is not None:
                    rate = (written + skipped - earlier) / max(time.monotonic() - started, 1e-6)
                    observe(users.users, written, skipped, rate)
    except REDIS_FAILURES as error:
        raise TesseraError(
            f"refresh of {version} stopped, Redis said: {error}; what was written stays, "
            "`tessera refresh --resume` goes on behind it"
        ) from error
    seconds = time.monotonic() - started
    decoded = written + skipped - earlier
    return RefreshSummary(
        version=version,
        users=written,
        skipped=skipped,
        coverage=round(written / (written + skipped), 4) if written + skipped else 0.0,
        k=plan.k,
        seconds=round(seconds, 3),
        users_per_second=round(decoded / seconds, 1) if seconds else 0.0,
        candidates=plan.candidates,
    )


def _left(shards: Iterator[Shard], done: dict[int, ShardDone], advance: Advance) -> Iterator[Shard]:
    for shard in shards:
        if shard.number in done:
            advance(len(shard.users), "(some done before)")
        else:
            yield shard


def on_this_machine(refresh: ShardRefresh) -> ShardRuns:
    """Refresh shards one after another with one decoder."""

    def run(shards: Iterator[Shard]) -> Iterator[tuple[Shard, ShardDone]]:
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            writing: deque[tuple[Shard, Future[ShardDone]]] = deque()
            try:
                for shard, reading in _read_ahead(reader, refresh, shards):
                    lists = refresh.decode(reading)
                    writing.append((shard, writer.submit(refresh.finish, shard, reading, lists)))
                    # A bound on what waits to be written, and the place where a failed write is heard of.
                    while len(writing) > _SHARDS_AHEAD or (writing and writing[0][1].done()):
                        yield _next_result(writing)
                while writing:
                    yield _next_result(writing)
            finally:
                for _, unfinished in writing:
                    unfinished.cancel()

    return run


def _read_ahead(
    reader: ThreadPoolExecutor, refresh: ShardRefresh, shards: Iterator[Shard]
) -> Iterator[tuple[Shard, Reading]]:
    """Each shard with its histories; those of the next are read meanwhile."""
    waiting: deque[tuple[Shard, Future[Reading]]] = deque()
    for shard in shards:
        waiting.append((shard, reader.submit(refresh.read, shard)))
        if len(waiting) == _SHARDS_AHEAD:
            yield _next_result(waiting)
    while waiting:
        yield _next_result(waiting)


def _next_result(waiting: deque[tuple[Shard, Future[Result]]]) -> tuple[Shard, Result]:
    shard, future = waiting.popleft()
    return shard, future.result()
