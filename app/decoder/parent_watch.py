"""How a child process finds out that its parent has gone, however that ended."""

import os
import signal
import sys
import threading

_PATIENCE_S = 10


def end_when_stdin_closes() -> None:
    """Ask for an orderly end when the parent is gone, and end the whole process group if that takes too long.

    Standard input is a pipe whose other end the parent holds; the kernel closes it with the parent.
    """

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_PATIENCE_S)
        if os.getpgid(0) == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
