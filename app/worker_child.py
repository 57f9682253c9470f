"""The worker that does refreshes as a child of `tessera serve`, where this machine can run a model at all."""

import importlib.util
import os
import subprocess

from app.decoder.process import UNTIL_STDIN_CLOSES
from app.decoder.supervised import SupervisedProcess, launch_module
from app.settings import Settings
from app.telemetry import MULTIPROCESS_VARIABLE


def model_extra_is_installed() -> bool:
    """Whether a refresh could run here; nothing is imported."""
    return importlib.util.find_spec("torch") is not None


def worker_child(settings: Settings) -> SupervisedProcess:
    """A `tessera worker` that is started again when it ends, and is gone when this process is."""

    def launch() -> "subprocess.Popen[bytes]":
        environment = {**os.environ, **settings.to_environment()}
        # The API's workers add their metrics up there.
        environment.pop(MULTIPROCESS_VARIABLE, None)
        return launch_module(["tessera", "worker", UNTIL_STDIN_CLOSES], environment)

    return SupervisedProcess("worker-child", launch)
