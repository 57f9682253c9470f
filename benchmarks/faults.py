"""Under load, no fault of Redis, decoder, disk, bundle or clock makes a read fail or loses an acknowledged event.

Measured: `tessera serve` (one worker, every setting as it comes) with its own decoder process (torch, one thread) and a
real Redis of its own with an append-only file (everysec), for a published version whose language model is small and
random. A process of its own asks all the while: 60 reads a second for users with an entry, 4 for users with a history
and no entry (each a live decode), 20 events a second. For each fault 60 s: it begins after a quarter and ends at half.
A read that is answered by anything but a 200 within 10 s, an event that is answered by anything but a 200 or a 503, and
a cached list of somebody else are failures. Recovered is the first second after the end of the fault in which users
with an entry are answered from it, those without by a live decode, and events accepted, as often as before the fault:
95 % of that, 75 % for the live ones, who are few. At the end every acknowledged event must be in its user's history.
`--quick`: three of them (Redis killed, decoder hangs, Redis 200 ms late), 6 s each.
Floor: the first quarter, before the fault: what is missed there is the machine's doing.
"""

import contextlib
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import harness
from benchmarks.fault_kinds import DAMAGED, Fault, clock_faults, faults, overwrite, slow_faults
from benchmarks.fault_load import Answer, FaultLoad
from benchmarks.fault_servers import Stack, stack
from benchmarks.harness import Claim, Report, Table
from model_store.bundle import Bundle
from model_store.cache_keys import Keys
from tests.tiny_bundle import build_tiny_bundle

_ITEMS, _FIRST_LEVEL = 2_000, 100
_SECONDS, _QUICK_SECONDS = 60.0, 6.0
_STEP_S = 0.1
_OPENING_S = 1.0
_AS_BEFORE = {"cached": 0.95, "new": 0.75, "event": 0.95}
"""Of the share before the fault."""
_SLOWEST_READ_S = 5.0
_FAKED_CLOCK = "libfaketimeMT.so.1"


@dataclass
class Outcome:
    """What came of one.

    Attributes:
        answers: all of them.
        began, ended: monotonic seconds.
        recovered_s: from its end; None where that was not seen.
        lost: acknowledged events that are in no history.
        stopped: what the log says of parts that ended, and of requests that failed.
    """

    fault: Fault
    answers: Sequence[Answer]
    began: float
    ended: float
    recovered_s: float | None
    lost: int
    stopped: int
    phases: dict[str, list[Answer]] = field(init=False)

    def __post_init__(self) -> None:
        recovered = math.inf if self.recovered_s is None else self.ended + self.recovered_s
        over = self.ended if self.fault.lasts else recovered
        self.phases = {
            "before": [one for one in self.answers if one.at + one.took_s < self.began],
            "during": [one for one in self.answers if self.began <= one.at < over],
            "after": [one for one in self.answers if one.at >= recovered],
        }

    @property
    def reads(self) -> list[Answer]:
        """Of users with and without an entry."""
        return [one for one in self.answers if one.kind != "event"]

    @property
    def events(self) -> list[Answer]:
        """All that were sent."""
        return [one for one in self.answers if one.kind == "event"]

    def sources(self, phase: str, kind: str) -> str:
        """Shares of the sources, the most frequent first."""
        found = Counter(
            f"{one.source or one.status}{' (degraded)' if one.degraded else ''}"
            for one in self.phases[phase]
            if one.kind == kind
        )
        return ", ".join(f"{name} {_percent(times / found.total())}" for name, times in found.most_common(4))

    def share_as_ever(self, phase: str, kind: str) -> float:
        """Of the answers of a kind, 0 where there are none."""
        return _share_as_ever(self.phases[phase], kind)


def measure(quick: bool) -> Report:
    """One fault after another."""
    seconds = _QUICK_SECONDS if quick else _SECONDS
    notes = [f"{seconds:g} s for each fault, from {seconds / 4:g} to {seconds / 2:g} s"]
    outcomes: list[Outcome] = []
    refusal = None
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "spare").mkdir()
        bundle = _published(folder / "store")
        plain, slow = faults(folder / "spare"), slow_faults()
        with contextlib.ExitStack() as running:
            if quick:
                plain, slow = [plain[0], plain[2]], slow[:1]
            # Both at once: loading torch is most of a start.
            starting = _InBackground(lambda: running.enter_context(stack(bundle, folder / "slow", slowed=True)))
            one = running.enter_context(stack(bundle, folder / "plain"))
            outcomes += [_suffer(one, fault, seconds) for fault in plain]
            if not quick:
                refusal = _start_with_damage(one)
            outcomes += [_suffer(starting.result(), fault, seconds) for fault in slow]
        if quick:
            notes.append("--quick: the other faults were not made")
        elif (library := _faked_clock()) is None:
            notes.append(f"the clock's faults were not made: no {_FAKED_CLOCK} (package faketime)")
        else:
            with stack(bundle, folder / "clock", faked_clock=library) as one:
                outcomes += [_suffer(one, fault, seconds) for fault in clock_faults()]
    return _report(outcomes, refusal, notes)


class _InBackground:
    """Something that is started while something else is."""

    def __init__(self, start: Callable[[], Stack]) -> None:
        self._found: Stack | None = None
        self._error: BaseException | None = None

        def work() -> None:
            try:
                self._found = start()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def result(self) -> Stack:
        """Wait for it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found


def _published(store: Path) -> Bundle:
    """A version that is served, and beside it one that is damaged."""
    bundle = build_tiny_bundle(store, items=_ITEMS, first_level=_FIRST_LEVEL)
    damaged = build_tiny_bundle(store, version=DAMAGED, items=_ITEMS, first_level=_FIRST_LEVEL, activate=False, seed=1)
    overwrite(damaged.path / "item_codes.npy")
    return bundle


def _faked_clock() -> Path | None:
    places = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
    found = (path for place in places for path in Path(place).glob(f"**/faketime/{_FAKED_CLOCK}"))
    return next(found, None) if sys.platform == "linux" else None


def _suffer(stack: Stack, fault: Fault, seconds: float) -> Outcome:
    """Make one fault under load."""
    harness.progress(fault.name)
    mark = f"{time.monotonic_ns():x}"
    stack.fill(mark, seconds)
    stack.wait_until_well()
    said = len(stack.log)
    begin = time.monotonic() + _OPENING_S
    load = FaultLoad(stack.server.port, begin, seconds, mark, stack.expected, stack.folder)
    _sleep_until(begin + seconds / 4)
    began = time.monotonic()
    fault.begin(stack)
    if fault.lasts:
        _sleep_until(begin + seconds / 2)
    ended = time.monotonic() if fault.lasts else began
    fault.end(stack)
    answers = load.answers()
    recovered_s = _recovered(answers, began, ended, begin + seconds)
    lost = _lost(stack, answers)
    log = stack.log[said:]
    stopped = sum(log.count(words) for words in ("background task ended", "request failed"))
    return Outcome(fault, answers, began, ended, recovered_s, lost, stopped)


def _recovered(answers: Sequence[Answer], began: float, ended: float, end: float) -> float | None:
    before = [one for one in answers if one.at + one.took_s < began]
    needed = {kind: share * _share_as_ever(before, kind) for kind, share in _AS_BEFORE.items()}
    for step in range(int((end - 1 - ended) / _STEP_S) + 1):
        since = ended + step * _STEP_S
        within = [one for one in answers if since <= one.at < since + 1]
        if all(_share_as_ever(within, kind) >= share for kind, share in needed.items()):
            return step * _STEP_S
    return None


def _share_as_ever(answers: Sequence[Answer], kind: str) -> float:
    found = [one.as_ever for one in answers if one.kind == kind]
    return sum(found) / len(found) if found else 0.0


def _lost(stack: Stack, answers: Sequence[Answer]) -> int:
    kept = {user: stack.history(user) for user in {one.user for one in answers if one.kind == "event"}}
    acknowledged = [one for one in answers if one.kind == "event" and one.status == 200]
    return sum(one.item not in kept[one.user] for one in acknowledged)


def _start_with_damage(stack: Stack) -> bool:
    """Whether a server that is started with a damaged version says which file it is, in one line, and ends with 1."""
    stack.redis.client.set(Keys().active, DAMAGED)
    code, said = stack.start_another()
    stack.redis.client.delete(Keys().active)
    return code == 1 and len(said.splitlines()) == 1 and f"{DAMAGED}/item_codes.npy" in said


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _report(outcomes: Sequence[Outcome], refusal: bool | None, notes: list[str]) -> Report:
    return Report(tables=list(_tables(outcomes)), claims=list(_claims(outcomes, refusal)), notes=notes)


def _tables(outcomes: Sequence[Outcome]) -> Iterator[Table]:
    yield Table(
        "what became of the requests",
        ("fault", "reads 2xx", "events 2xx", "statuses", "slowest read, s", "recovered, s", "events lost"),
        [
            (
                one.fault.name,
                _percent(sum(answer.status == 200 for answer in one.reads) / len(one.reads)),
                _percent(sum(answer.status == 200 for answer in one.events) / len(one.events)),
                ", ".join(f"{status}: {n}" for status, n in sorted(Counter(a.status for a in one.answers).items())),
                max(answer.took_s for answer in one.reads),
                "not seen" if one.recovered_s is None else f"{one.recovered_s:.1f}",
                f"{one.lost} of {sum(answer.status == 200 for answer in one.events)}",
            )
            for one in outcomes
        ],
    )
    for kind, whose in (("cached", "users with an entry"), ("new", "users with a history and no entry")):
        yield Table(
            f"sources: {whose}",
            ("fault", "before", "during", "once recovered"),
            [
                (one.fault.name, *(one.sources(phase, kind) for phase in ("before", "during", "after")))
                for one in outcomes
            ],
        )


def _claims(outcomes: Sequence[Outcome], refusal: bool | None) -> Iterator[Claim]:
    reads = [answer for one in outcomes for answer in one.reads]
    events = [answer for one in outcomes for answer in one.events]
    lists = [answer.right for one in outcomes if one.fault.keeps_lists for answer in one.reads]
    yield Claim.at_most("reads that were not answered by a 200", sum(r.status != 200 for r in reads), "reads", 0)
    yield Claim.at_most("cached lists of somebody else", lists.count(False), "lists", 0)
    yield Claim.at_most("slowest read", max(read.took_s for read in reads), "s", _SLOWEST_READ_S)
    others = sum(event.status not in (200, 503) for event in events)
    yield Claim.at_most("events answered by neither 200 nor 503", others, "events", 0)
    lost = sum(one.lost for one in outcomes if one.fault.keeps_events)
    yield Claim.at_most("events acknowledged and then lost, where Redis kept its file", lost, "events", 0)
    yield Claim.at_most("parts that ended, requests that crashed", sum(one.stopped for one in outcomes), "log lines", 0)
    for one in outcomes:
        yield _recovery(one)
        if one.fault.cached is not None:
            claim = f"users with an entry answered from it, during: {one.fault.name}"
            yield Claim.at_least(claim, one.share_as_ever("during", "cached"), "of all", one.fault.cached)
    if refusal is not None:
        yield Claim.at_least("starts with a damaged version that name the file and exit 1", float(refusal), "of 1", 1)


def _recovery(outcome: Outcome) -> Claim:
    claim, bound = f"as before after: {outcome.fault.name}", outcome.fault.recovers_s
    if outcome.recovered_s is not None:
        return Claim.at_most(claim, outcome.recovered_s, "s", bound)
    watched_s = outcome.answers[-1].at - outcome.ended
    return Claim(f"{claim} (not seen)", harness.rounded(watched_s), "s", f"<= {harness.number(bound)}", False)


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
