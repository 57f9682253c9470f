"""The load under which faults are made: a process of its own that notes every answer.

    python -m benchmarks.fault_load PORT BEGIN SECONDS MARK EXPECTED ANSWERS

From the monotonic time BEGIN on, three kinds of requests at steady rates, each connection on its own: recommendations
for users with an entry (`cached`; EXPECTED is a JSON file of their lists), for users with a history and no entry, each
asked for once (`new`), and single events (`event`), none of them twice. A connection that was kept waiting does not
catch up: in an outage it asks as soon as it is answered, at most at its rate. ANSWERS gets one JSON array a line.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.server_process import ROOT

CONNECTIONS = {"cached": 6, "new": 4, "event": 4}
PER_SECOND = {"cached": 60.0, "new": 4.0, "event": 20.0}
"""Of all connections together."""
EVENTS_PER_USER = 100
"""Fewer than a history keeps."""
_TIMEOUT_S = 10.0
_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what came of it.

    Attributes:
        kind: cached, new or event.
        at: monotonic seconds when it was sent.
        took_s: until the whole answer was there, or nothing more would come.
        status: 0 where there was none.
        source, degraded: of a recommendation.
        right: whether a list from the cache is the user's; None for other answers.
        user, item: of an event.
    """

    kind: str
    at: float
    took_s: float
    status: int
    source: str = ""
    degraded: bool = False
    right: bool | None = None
    user: str = ""
    item: str = ""

    @property
    def as_ever(self) -> bool:
        """Whether it is what it is when all is well."""
        usual = {"cached": "cache", "new": "live", "event": ""}[self.kind]
        return self.status == http.client.OK and not self.degraded and self.source == usual


class FaultLoad:
    """One run of the generator, from its start; `answers` waits for its end."""

    def __init__(self, port: int, begin: float, seconds: float, mark: str, expected: Path, folder: Path) -> None:
        self._out = folder / f"answers-{mark}"
        self._seconds = seconds
        words = (str(port), str(begin), str(seconds), mark, str(expected), str(self._out))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fault_load", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    def answers(self) -> list[Answer]:
        """All of them, in the order in which they were asked for."""
        _, said = self._process.communicate(timeout=self._seconds + _GRACE_S)
        if self._process.returncode:
            raise RuntimeError(f"the load generator failed: {said.strip()}")
        rows = [Answer(*json.loads(line)) for line in self._out.read_text().splitlines()]
        return sorted(rows, key=lambda answer: answer.at)


def new_users(mark: str, seconds: float) -> list[str]:
    """The users without an entry that a run can ask for."""
    asked = range(int(PER_SECOND["new"] / CONNECTIONS["new"] * seconds) + 2)
    return [f"new-{mark}-{connection}-{number}" for connection in range(CONNECTIONS["new"]) for number in asked]


def _connection_of(
    kind: str, number: int, port: int, mark: str, expected: Mapping[str, list[str]], rows: list[list[Any]]
) -> Callable[[float, float], None]:
    """What one connection does between two times."""
    users = sorted(expected)[number :: CONNECTIONS[kind]]

    def request(turn: int) -> tuple[str, str, bytes | None, str, str]:
        if kind == "cached":
            user = users[turn % len(users)]
            return "GET", f"/recommend/{user}", None, user, ""
        if kind == "new":
            user = f"new-{mark}-{number}-{turn}"
            return "GET", f"/recommend/{user}", None, user, ""
        user, item = f"writer-{mark}-{number}-{turn // EVENTS_PER_USER}", f"item-{turn % EVENTS_PER_USER}"
        return "POST", "/events", json.dumps([{"user_id": user, "item_id": item}]).encode(), user, item

    def work(begin: float, end: float) -> None:
        interval = CONNECTIONS[kind] / PER_SECOND[kind]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        due = begin + number * interval / CONNECTIONS[kind]
        for turn in count():
            time.sleep(max(due - time.monotonic(), 0))
            if (at := time.monotonic()) >= end:
                break
            method, path, body, user, item = request(turn)
            status, answer = 0, {}
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
                status = response.status
                answer = json.loads(content) if status == http.client.OK else {}
            except (OSError, http.client.HTTPException):
                connection.close()
            took = time.monotonic() - at
            source = answer.get("source", "")
            right = None
            if kind == "cached" and source in ("cache", "stale_cache"):
                right = [one["item_id"] for one in answer["items"]] == expected[user]
            rows.append([kind, at, took, status, source, answer.get("degraded", False), right, user, item])
            due = max(due + interval, time.monotonic())
        connection.close()

    return work


def _generate(port: int, begin: float, seconds: float, mark: str, expected: Path, out: Path) -> None:
    lists = json.loads(expected.read_text())
    rows: list[list[Any]] = []
    threads = [
        threading.Thread(
            target=_connection_of(kind, number, port, mark, lists, rows), args=(begin, begin + seconds), daemon=True
        )
        for kind, connections in CONNECTIONS.items()
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    _, given_port, given_begin, given_seconds, given_mark, given_expected, given_out = sys.argv
    _generate(
        int(given_port), float(given_begin), float(given_seconds), given_mark, Path(given_expected), Path(given_out)
    )
