"""`tessera worker`: does the refreshes that are asked for over HTTP."""

import os
import signal
from threading import Event
from typing import Annotated

import typer

from command_line.common import read_settings, redis_url, reports_errors

commands = typer.Typer()

_NICENESS_OF_CHILD = 10


@commands.command()
@reports_errors
def worker(
    until_stdin_closes: Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)] = False,
) -> None:
    """Do the refreshes that POST /refresh and the dashboard ask for, one at a time, until SIGTERM."""
    from app import structured_logging
    from app.decoder.parent_watch import end_when_stdin_closes
    from model_store.cache_keys import Keys
    from offline.jobs.worker import RefreshWorker
    from offline.redis_connection import connect

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:
        end_when_stdin_closes()
        # Beside a service on the same cores, whose answers go first.
        os.nice(_NICENESS_OF_CHILD)
    settings = read_settings()
    structured_logging.configure(settings.log_level)
    RefreshWorker(connect(redis_url(settings)), Keys(settings.namespace)).run(stop)
