"""The server with several workers whose windows of /latency go by a clock in a file.

python tests/app/steered_workers.py PORT CLOCK_FILE
"""

import os
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from app import main, structured_logging
from app.settings import Settings

CLOCK = "CLOCK_FILE_OF_THE_TEST"


def application() -> FastAPI:
    """What a worker process makes."""
    settings = Settings()
    structured_logging.configure(settings.log_level)
    return main.create_app(settings, clock=lambda: float(Path(os.environ[CLOCK]).read_text()))


if __name__ == "__main__":
    os.environ[CLOCK] = sys.argv[2]
    with main._environment_of_workers(Settings()):
        uvicorn.run(
            "tests.app.steered_workers:application",
            factory=True,
            workers=2,
            port=int(sys.argv[1]),
            log_config=None,
            access_log=False,
        )
