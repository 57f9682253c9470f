"""Runs inside vLLM's own processes: ends them when the process that started the engine is killed.

vLLM notices when a child dies, not when its parent does; without this a killed decoder leaves an engine that holds its
memory for ever.
"""

import os
import signal
import threading
import time

_POLL_S = 1.0


class Lifeline:
    """Given to vLLM as `worker_extension_cls`, which makes the method callable by `collective_rpc`."""

    def end_with(self, process_id: int) -> None:
        """Kill this worker, and so its engine, once that process is gone."""
        threading.Thread(target=_watch, args=(process_id,), name="lifeline", daemon=True).start()


def _watch(process_id: int) -> None:
    while _lives(process_id):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
