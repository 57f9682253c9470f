"""The faults: what is done to a stack, and what may come of it."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fault_servers import Stack
from model_store.cache_keys import Keys

DAMAGED = "damaged-2"
"""A version with a damaged file, beside the served one."""
_READ_BY_THE_API = ("item_codes.npy", "items.parquet", "popularity.npy", "item_embeddings.npy", "items.faiss")
_MOST = 0.8
"""Three reads of a busy machine that take over 100 ms, one after another, cost a second of cached answers."""

Act = Callable[[Stack], None]


def _nothing(stack: Stack) -> None:
    """No act."""


@dataclass(frozen=True)
class Fault:
    """What is done to a stack.

    Attributes:
        name: what tables call it.
        begin, end: done at a quarter of the time, and at half.
        lasts: false where it is over as soon as it has begun.
        recovers_s: how soon all must be as before.
        cached: share of the users with an entry who must be answered from it while the fault lasts; None for no claim.
        keeps_events: whether what was acknowledged is to be there afterwards.
        keeps_lists: whether entries stay as they were filled, so that lists can be compared.
    """

    name: str
    begin: Act
    end: Act = _nothing
    lasts: bool = True
    recovers_s: float = 5.0
    cached: float | None = None
    keeps_events: bool = True
    keeps_lists: bool = True


def faults(spare: Path) -> list[Fault]:
    """Those of a stack where nothing stands between."""

    def both_away(stack: Stack) -> None:
        stack.redis.kill()
        stack.signal_decoder(signal.SIGSTOP)

    def both_back(stack: Stack) -> None:
        stack.signal_decoder(signal.SIGCONT)
        stack.redis.start()

    def damage(stack: Stack) -> None:
        for name in _READ_BY_THE_API:
            path = stack.bundle.path / name
            shutil.copyfile(path, spare / name)
            overwrite(path)
        stack.redis.client.set(Keys().active, DAMAGED)

    def repair(stack: Stack) -> None:
        stack.redis.client.delete(Keys().active)
        for name in _READ_BY_THE_API:
            shutil.copyfile(spare / name, stack.bundle.path / name)

    return [
        Fault("Redis killed", lambda s: s.redis.kill(), lambda s: s.redis.start()),
        Fault("disk of Redis full", lambda s: s.redis.fill_disk(), lambda s: s.redis.free_disk(), cached=_MOST),
        Fault(
            "decoder hangs",
            lambda s: s.signal_decoder(signal.SIGSTOP),
            lambda s: s.signal_decoder(signal.SIGCONT),
            recovers_s=10,
            cached=_MOST,
        ),
        Fault("decoder killed", lambda s: s.signal_decoder(signal.SIGKILL), lasts=False, recovers_s=30, cached=_MOST),
        Fault("Redis killed, decoder hangs", both_away, both_back, recovers_s=10),
        Fault("bundle damaged, damaged version activated", damage, repair, recovers_s=2, cached=_MOST),
        Fault(
            "Redis empty; filled again",
            lambda s: s.redis.empty(),
            lambda s: s.fill_again(),
            keeps_events=False,
            keeps_lists=False,
        ),
    ]


def slow_faults() -> list[Fault]:
    """Those of a stack with something before Redis."""

    def delayed(milliseconds: float) -> Act:
        def act(stack: Stack) -> None:
            assert stack.slow is not None
            stack.slow.delay(milliseconds)

        return act

    return [
        Fault("Redis 200 ms late", delayed(200), delayed(0)),
        Fault("Redis 20 ms late", delayed(20), delayed(0), recovers_s=2, cached=_MOST),
    ]


def clock_faults() -> list[Fault]:
    """Those of a stack with a clock that can be set."""

    def set_to(offset: str) -> Act:
        def act(stack: Stack) -> None:
            assert stack.clock is not None
            staging = stack.clock.with_suffix(".new")
            staging.write_text(f"{offset}\n")
            staging.replace(stack.clock)

        return act

    return [
        Fault(f"clock {offset}, and back", set_to(offset), set_to("+0"), recovers_s=10, keeps_lists=False)
        for offset in ("+1d", "-1d")
    ]


def overwrite(path: Path) -> None:
    """Other bytes in the same file: who has it mapped sees them."""
    with path.open("r+b") as stream:
        stream.write(b"\xff" * path.stat().st_size)
