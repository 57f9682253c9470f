"""One `tessera refresh` in a process of its own: started, watched, ended with all it started."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from model_store.refresh_jobs import RefreshOrder
from offline.progress import PROGRESS_FD_VARIABLE

UNTIL_STDIN_CLOSES = "--until-stdin-closes"
_PATIENCE_S = 5.0
_LONGEST_LINE = 500

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far it is: users done, of all, and a second."""

    done: int
    total: int
    per_second: float


class RefreshProcess:
    """A refresh under way.

    Args:
        order: what to refresh.
        users: ids, where the order is about some users.
        resume: go on behind one that was stopped.

    Raises:
        OSError: no process is to be had.
    """

    def __init__(self, order: RefreshOrder, users: list[str] | None, *, resume: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tessera-refresh-")
        # Never the served version: a refresh fills, `activate` switches.
        command = [sys.executable, "-m", "tessera", "refresh", UNTIL_STDIN_CLOSES, "--version", order.version]
        if order.mode == "stale":
            command.append("--stale")
            for option, value in (("--budget-users", order.budget_users), ("--budget-s", order.budget_s)):
                command += [] if value is None else [option, str(value)]
        else:
            command.append("--shadow")
            command += ["--resume"] if resume else []
        if users is not None:
            listed = Path(self._folder.name) / "users"
            listed.write_text("\n".join(users), encoding="utf-8")
            command += ["--users", str(listed)]
        self._progress_fd, theirs = os.pipe()
        os.set_blocking(self._progress_fd, False)
        self._unread = b""
        self._progress: Progress | None = None
        self._last_line = ""
        try:
            self._process = subprocess.Popen(
                command,
                # It ends when this pipe does: with us, however that happens.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, PROGRESS_FD_VARIABLE: str(theirs)},
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except OSError:
            os.close(self._progress_fd)
            self._folder.cleanup()
            raise
        finally:
            os.close(theirs)
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._pass_on, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def error(self) -> str:
        """The last line it said, once it has ended."""
        self._reader.join(_PATIENCE_S)
        return self._last_line.removeprefix("error: ") or f"ended with code {self._process.returncode}"

    def progress(self) -> Progress | None:
        """How far it is; None until it has begun with the users."""
        with suppress(BlockingIOError):
            while found := os.read(self._progress_fd, 65_536):
                self._unread += found
        *lines, self._unread = self._unread.split(b"\n")
        if lines:
            told = json.loads(lines[-1])
            self._progress = Progress(int(told["done"]), int(told["total"]), float(told["per_second"]))
        return self._progress

    def end(self) -> None:
        """End it if it runs, with whatever it started, and give back what it held."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_PATIENCE_S)
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.close(self._progress_fd)
        self._folder.cleanup()

    def _pass_on(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if text:
                    _logger.info("%s", text)
                    self._last_line = text[:_LONGEST_LINE]
