"""A process that is kept running: started again with growing pauses when it ends, and ended with all it started."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from app.decoder.backoff import Backoff
from app.structured_logging import FIELDS

_POLL_S = 0.1
_STDERR = 2

_logger = logging.getLogger(__name__)


class SupervisedProcess:
    """Keeps one process running, from a thread of its own.

    Args:
        name: what logs call its thread and it.
        launch: starts it by `launch_module`.
        ended: called in the thread after it has ended, before it is started again.
        first_pause_s: wait before the first restart; doubles with every death up to `longest_pause_s`.
        longest_pause_s: also how long it must have lived to start counting from the beginning.
        stop_timeout_s: how long it may take to end before it is killed.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], "subprocess.Popen[bytes]"],
        *,
        ended: Callable[[], None] = lambda: None,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self._name = name
        self._launch = launch
        self._ended = ended
        self._backoff = Backoff(first_pause_s, longest_pause_s)
        self._stop_timeout_s = stop_timeout_s
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name=name, daemon=True)

    @property
    def pid(self) -> int | None:
        """Its process id, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it in the background; returns at once."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have it end, without waiting for that."""
        self._stopping.set()

    def stop(self) -> None:
        """End it and wait until it has ended; calling it again does nothing."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            begin = time.monotonic()
            try:
                process = self._process = self._launch()
            except OSError as error:
                # No memory or no process to be had; there may be in a moment.
                _logger.error("a process cannot be started: %s", error, extra={FIELDS: {"process": self._name}})
                self._stopping.wait(self._backoff.pause_s())
                continue
            self._wait(process)
            # An engine's processes must not outlive the process that spoke for them.
            _kill_group(process.pid)
            self._ended()
            if self._stopping.is_set():
                return
            pause_s = self._backoff.pause_s(time.monotonic() - begin)
            fields = {"process": self._name, "exit_code": process.returncode, "restart_in_s": round(pause_s, 2)}
            _logger.error("a process ended", extra={FIELDS: fields})
            self._stopping.wait(pause_s)

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        while process.poll() is None:
            if self._stopping.wait(_POLL_S):
                process.terminate()
                try:
                    process.wait(self._stop_timeout_s)
                except subprocess.TimeoutExpired:
                    _kill_group(process.pid)
                    process.wait()
        if process.stdin is not None:
            process.stdin.close()


def launch_module(
    arguments: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Run `python -m ARGUMENTS` as the leader of a process group, with a pipe that closes when this process ends."""
    # OpenMP threads that spin while they wait starve each other as soon as somebody else needs a core: a decode of
    # 50 ms then takes seconds. What an operator set stays.
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        # The engine's libraries print; our own standard output belongs to the command.
        stdout=_STDERR,
        env={"OMP_WAIT_POLICY": "PASSIVE", **environment},
        pass_fds=pass_fds,
        start_new_session=True,
    )


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
