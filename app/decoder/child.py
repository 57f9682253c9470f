"""The decoder as a child of `tessera serve`: started, restarted when it dies, and gone when its parent is.

The child watches its standard input. The kernel closes that pipe when the parent ends, even by SIGKILL, so no decoder
is left behind. It leads a process group of its own, and whatever the engine started there ends with it.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from app.decoder.process import UNTIL_STDIN_CLOSES
from app.decoder.settings import UNIX_SCHEME, DecoderSettings
from app.decoder.supervised import SupervisedProcess, launch_module
from app.telemetry import MULTIPROCESS_VARIABLE

# Bytes. Linux allows 107, macOS 103.
_MAX_SOCKET_PATH = 100


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
        self._temporary: Path | None = None
        self._socket = self._socket_path(home)
        self._settings = settings.model_copy(update={"listen": f"{UNIX_SCHEME}{self._socket}"})
        self._supervised = SupervisedProcess(
            "decoder-child",
            self._launch,
            ended=lambda: self._socket.unlink(missing_ok=True),
            first_pause_s=first_pause_s,
            longest_pause_s=longest_pause_s,
            stop_timeout_s=stop_timeout_s,
        )

    @property
    def address(self) -> str:
        """Where it listens once it has started, for `LiveDecoding`."""
        return self._settings.listen

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._supervised.pid

    def start(self) -> None:
        """Start it in the background; returns at once, long before it can decode."""
        self._supervised.start()

    def stop(self) -> None:
        """End it and wait until it has ended; calling it again does nothing."""
        self._supervised.stop()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self._settings.to_environment()}
        # The API's workers add their metrics up there; the decoder has its own.
        environment.pop(MULTIPROCESS_VARIABLE, None)
        return launch_module(["app.decoder.process", UNTIL_STDIN_CLOSES], environment)

    def _socket_path(self, home: Path) -> Path:
        # The process id keeps two servers of one home apart.
        path = home.absolute() / f"decoder-{os.getpid()}.sock"
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
            self._temporary = Path(tempfile.mkdtemp(prefix="tessera-decoder-"))
            path = self._temporary / "decoder.sock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
