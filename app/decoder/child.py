"""The decoder as a child of `tessera serve`: started, restarted when it dies, and gone when its parent is.

The child watches its standard input. The kernel closes that pipe when the parent ends, even by SIGKILL, so no decoder
is left behind. It leads a process group of its own, and whatever the engine started there ends with it.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.decoder.backoff import Backoff
from app.decoder.process import UNTIL_STDIN_CLOSES
from app.decoder.settings import UNIX_SCHEME, DecoderSettings
from app.structured_logging import FIELDS
from app.telemetry import MULTIPROCESS_VARIABLE

# Bytes. Linux allows 107, macOS 103.
_MAX_SOCKET_PATH = 100
_STDERR = 2
_POLL_S = 0.1

_logger = logging.getLogger(__name__)


class DecoderChild:
    """Keeps one decoder process running.

    Args:
        settings: the decoder's; `listen` is replaced by a socket of the child's own.
        home: folder for that socket, created when missing.
        first_pause_s: wait before the first restart; doubles with every death up to `longest_pause_s`.
        longest_pause_s: also how long a child must have lived to start counting from the beginning.
        stop_timeout_s: how long it may take to end before it is killed.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        home: Path,
        *,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._stop_timeout_s = stop_timeout_s
        self._temporary: Path | None = None
        self._socket = self._socket_path(home)
        self._settings = settings.model_copy(update={"listen": f"{UNIX_SCHEME}{self._socket}"})
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="decoder-child", daemon=True)

    @property
    def address(self) -> str:
        """Where it listens once it has started, for `LiveDecoding`."""
        return self._settings.listen

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start it in the background; returns at once, long before it can decode."""
        self._thread.start()

    def stop(self) -> None:
        """End it and wait until it has ended; calling it again does nothing."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _supervise(self) -> None:
        backoff = Backoff(self._first_pause_s, self._longest_pause_s)
        while not self._stopping.is_set():
            begin = time.monotonic()
            process = self._process = self._launch()
            self._wait(process)
            # An engine's processes must not outlive the process that spoke for them.
            _kill_group(process.pid)
            self._socket.unlink(missing_ok=True)
            if self._stopping.is_set():
                return
            pause_s = backoff.pause_s(time.monotonic() - begin)
            fields = {"exit_code": process.returncode, "restart_in_s": pause_s}
            _logger.error("the decoder process ended", extra={FIELDS: fields})
            self._stopping.wait(pause_s)

    def _launch(self) -> subprocess.Popen[bytes]:
        # OpenMP threads that spin while they wait starve each other as soon as an API worker needs a core: a decode of
        # 50 ms then takes seconds. What an operator set stays.
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **self._settings.to_environment()}
        # The API's workers add their metrics up there; the decoder has its own.
        environment.pop(MULTIPROCESS_VARIABLE, None)
        return subprocess.Popen(
            [sys.executable, "-m", "app.decoder.process", UNTIL_STDIN_CLOSES],
            stdin=subprocess.PIPE,
            # The engine's libraries print; our own standard output belongs to the command.
            stdout=_STDERR,
            env=environment,
            start_new_session=True,
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
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

    def _socket_path(self, home: Path) -> Path:
        # The process id keeps two servers of one home apart.
        path = home.absolute() / f"decoder-{os.getpid()}.sock"
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            self._temporary = Path(tempfile.mkdtemp(prefix="tessera-decoder-"))
            path = self._temporary / "decoder.sock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
