"""Request times of the last hour, kept so that any worker can add up those of all.

Each worker counts into a ring of ten-second slots, one histogram and one maximum for each route and source. With a
shared folder the ring is a memory-mapped file there: whoever is asked reads all of them, and what a worker that died
had counted stays until it is too old.
"""

import fcntl
import mmap
import os
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WINDOWS_MIN = (1, 5, 60)
"""Minutes that can be asked for."""

_SLOT_S = 10
# One more than the longest window has: the oldest is being overwritten.
_SLOTS = max(WINDOWS_MIN) * 60 // _SLOT_S + 1
_SERIES = 256
_NAME_BYTES = 192
_OVERFLOW = ("other", "")
_SUFFIX = ".latency"


@dataclass(frozen=True, eq=False)
class WindowCounts:
    """Request times of one route and source within a window.

    Attributes:
        counts: requests in each bucket; int64 [B + 1], the last beyond the highest bound.
        longest_s: the longest of them.
    """

    route: str
    source: str
    counts: NDArray[np.int64]
    longest_s: float


class LatencyWindows:
    """Counts request times of this process; reads those of all. Recording belongs to one thread.

    Args:
        bounds_s: upper bounds of the buckets, ascending; B of them, the same in all processes that share a folder.
        folder: where the processes keep their rings; None for one process alone.
        clock: Unix seconds.
    """

    def __init__(
        self, bounds_s: Sequence[float], folder: Path | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._bounds = tuple(bounds_s)
        self._buckets = len(self._bounds) + 1
        self._folder = folder
        self._clock = clock
        self._series: dict[tuple[str, str], int] = {}
        self._slot = -1
        self._position = 0
        if folder is None:
            self._memory = mmap.mmap(-1, self._size)
        else:
            self._remove_old(folder)
            # Kept open: the lock tells others that this process lives.
            self._file, _ = tempfile.mkstemp(_SUFFIX, f"{os.getpid()}-", folder)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # Sparse: memory is taken for what is counted, not for what could be.
            os.truncate(self._file, self._size)
            self._memory = mmap.mmap(self._file, self._size)
        whole = memoryview(self._memory)
        stamps, names, longest, counts = self._parts
        self._stamps = whole[stamps].cast("q")
        self._names = whole[names]
        self._longest = whole[longest].cast("f")
        self._counts = whole[counts].cast("I")

    def series(self, route: str, source: str) -> int:
        """The number under which `record` counts a route and source."""
        known = self._series.get((route, source))
        if known is not None:
            return known
        if len(self._series) >= _SERIES - 1:
            route, source = _OVERFLOW
        number = self._series.setdefault((route, source), len(self._series))
        name = f"{route}\n{source}".encode()[:_NAME_BYTES]
        self._names[number * _NAME_BYTES : number * _NAME_BYTES + len(name)] = name
        return number

    def record(self, series: int, seconds: float) -> None:
        """Count one request."""
        slot = int(self._clock()) // _SLOT_S
        if slot != self._slot:
            self._turn_to(slot)
        at = series * _SLOTS + self._position
        self._counts[at * self._buckets + bisect_left(self._bounds, seconds)] += 1
        if seconds > self._longest[at]:
            self._longest[at] = seconds

    def read(self, minutes: int) -> list[WindowCounts]:
        """What all processes counted in the last minutes, to within ten seconds, by route and source."""
        found: dict[tuple[str, str], WindowCounts] = {}
        newest = int(self._clock()) // _SLOT_S
        oldest = newest - minutes * 60 // _SLOT_S + 1
        for memory in self._all_memory():
            stamps, names, longest, counts = self._arrays(memory)
            (slots,) = np.nonzero((stamps >= oldest) & (stamps <= newest))
            if not len(slots):
                continue
            for series, name in enumerate(bytes(one).rstrip(b"\0") for one in names):
                if not name:
                    break
                summed = counts[series, slots].sum(axis=0, dtype=np.int64)
                if not summed.any():
                    continue
                route, _, source = name.decode(errors="replace").partition("\n")
                most = float(longest[series, slots].max())
                if (other := found.get((route, source))) is not None:
                    summed, most = summed + other.counts, max(most, other.longest_s)
                found[route, source] = WindowCounts(route, source, summed, most)
        return [found[key] for key in sorted(found)]

    def _turn_to(self, slot: int) -> None:
        self._slot, self._position = slot, slot % _SLOTS
        if self._stamps[self._position] == slot:
            return
        # Of no window while it is being emptied.
        self._stamps[self._position] = 0
        nothing = memoryview(bytes(4 * self._buckets)).cast("I")
        for series in range(len(self._series)):
            at = series * _SLOTS + self._position
            self._longest[at] = 0.0
            self._counts[at * self._buckets : (at + 1) * self._buckets] = nothing
        self._stamps[self._position] = slot

    @property
    def _parts(self) -> tuple[slice, slice, slice, slice]:
        """Bytes of the stamps, names, maxima and counts."""
        sizes = (8 * _SLOTS, _SERIES * _NAME_BYTES, 4 * _SERIES * _SLOTS, 4 * _SERIES * _SLOTS * self._buckets)
        ends = np.cumsum(sizes).tolist()
        first, second, third, fourth = (slice(end - size, end) for end, size in zip(ends, sizes, strict=True))
        return first, second, third, fourth

    @property
    def _size(self) -> int:
        return int(self._parts[-1].stop)

    def _arrays(
        self, memory: mmap.mmap
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint32]]:
        stamps, names, longest, counts = self._parts
        whole = memoryview(memory)
        return (
            np.frombuffer(whole[stamps], np.int64),
            np.frombuffer(whole[names], np.uint8).reshape(_SERIES, _NAME_BYTES),
            np.frombuffer(whole[longest], np.float32).reshape(_SERIES, _SLOTS),
            np.frombuffer(whole[counts], np.uint32).reshape(_SERIES, _SLOTS, self._buckets),
        )

    def _all_memory(self) -> Iterator[mmap.mmap]:
        if self._folder is None:
            yield self._memory
            return
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            # One that has just been made, or removed, has counted nothing.
            with suppress(FileNotFoundError), path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == self._size:
                    yield mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ)

    def _remove_old(self, folder: Path) -> None:
        """Remove what dead processes left longer ago than any window: one that keeps dying must not fill the disk."""
        oldest = int(self._clock()) // _SLOT_S - _SLOTS
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError, ValueError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with mmap.mmap(file.fileno(), 8 * _SLOTS, access=mmap.ACCESS_READ) as stamps:
                    newest = int(np.frombuffer(bytes(stamps), np.int64).max())
                if newest < oldest:
                    path.unlink()
