"""Several decoder processes behind one address.

The parent listens and accepts. It deals each connection, as a file descriptor, to the next replica that is ready, and
has nothing to do with what is said on it. While no replica is ready it answers itself: 503, and why.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import mark_process_dead
from pydantic import ValidationError

from app import problems
from app.decoder.engines import check_engine
from app.decoder.handed_connections import ClosesConnections, HandedConnections
from app.decoder.listening import listening
from app.decoder.metrics import exposition_of_replicas
from app.decoder.problems import NoReplicaReady
from app.decoder.replica import ReplicaState, replica_name
from app.decoder.settings import DecoderSettings
from app.decoder.supervised import SupervisedProcess, launch_module
from app.json_response import Json
from app.telemetry import MULTIPROCESS_VARIABLE

_LINE_BYTES = 65536
# Connections accepted before other work of the loop has its turn.
_ACCEPTED_TOGETHER = 64
_CORES_VARIABLE = "VLLM_CPU_OMP_THREADS_BIND"
_GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


class RunningReplica:
    """One replica, from the parent's side. Its methods belong to the parent's event loop, `launch` to a thread.

    Args:
        number: 0, 1, ...
        settings: of the decoder.
        metrics_folder: where replicas keep their numbers.
        loop: the parent's.
    """

    def __init__(
        self, number: int, settings: DecoderSettings, metrics_folder: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.state = ReplicaState()
        self._number = number
        self._settings = settings
        self._metrics_folder = metrics_folder
        self._loop = loop
        self._starts = 0
        self._channel: socket.socket | None = None
        self._unread = b""
        self.process = SupervisedProcess(f"replica-{number}", self.launch, ended=self._clean_up)

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the process."""
        self._starts += 1
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), str(self._number), str(self._starts)]
            environment = environment_of(self._number, self._settings, self._metrics_folder)
            process = launch_module(["app.decoder.replica", *arguments], environment, pass_fds=[theirs.fileno()])
        ours.setblocking(False)
        self._loop.call_soon_threadsafe(self._connect, ours)
        return process

    def give(self, connection: socket.socket) -> bool:
        """Hand a connection over; False when the replica cannot take it."""
        if not self.state.ready or self._channel is None:
            return False
        try:
            socket.send_fds(self._channel, [b"c"], [connection.fileno()])
        except OSError:
            # It has just died, or is stuck with hundreds of connections not taken.
            return False
        return True

    def _connect(self, channel: socket.socket) -> None:
        self._disconnect()
        self._channel = channel
        self._loop.add_reader(channel, self._listen)

    def _disconnect(self) -> None:
        self.state, self._unread = ReplicaState(), b""
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _listen(self) -> None:
        assert self._channel is not None
        try:
            said = self._channel.recv(_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._disconnect()
            return
        *lines, self._unread = (self._unread + said).split(b"\n")
        for line in lines:
            # Anything else would be a defect of ours; a parent that goes on is worth more than one that knows.
            with suppress(ValidationError):
                self.state = ReplicaState.model_validate_json(line)

    def _clean_up(self) -> None:
        # What it had in memory or in its queue is there no more; what it has counted stays.
        mark_process_dead(replica_name(self._number), self._metrics_folder)  # type: ignore[no-untyped-call]


class ReplicaParent(HandedConnections):
    """Accepts connections, deals them to replicas, and serves those that none can take.

    Args:
        settings: of the decoder.
        listener: where connections arrive.
        metrics_folder: where replicas keep their numbers.
    """

    def __init__(self, settings: DecoderSettings, listener: socket.socket, metrics_folder: str) -> None:
        self.replicas: list[RunningReplica] = []
        # Every answer closes its connection: the next request may find a replica.
        super().__init__(ClosesConnections(_application_without_replica(self.replicas, metrics_folder), every=1))
        self._settings = settings
        self._listener = listener
        self._metrics_folder = metrics_folder

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for number in range(self._settings.replicas):
            replica = RunningReplica(number, self._settings, self._metrics_folder, loop)
            self.replicas.append(replica)
            replica.process.start()
        self._listener.setblocking(False)
        loop.add_reader(self._listener, self._accept)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`. The replicas answer what they have begun, and end."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for replica in self.replicas:
            replica.process.ask_to_stop()
        await super().shutdown(sockets)
        for replica in self.replicas:
            await asyncio.to_thread(replica.process.stop)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_TOGETHER):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # No more, or one that has left again, or too many open files: the loop will ask again.
                return
            if any(replica.give(connection) for replica in self._in_turn()):
                connection.close()
            else:
                self.adopt(connection)

    def _in_turn(self) -> Sequence[RunningReplica]:
        # The one that was asked first goes to the end of the row.
        self.replicas.append(self.replicas.pop(0))
        return self.replicas


def run_replicas(settings: DecoderSettings) -> None:
    """Serve with `settings.replicas` processes until a signal ends it.

    Raises:
        DecoderUnusable: the engine wanted is not installed.
        DecoderAddressTaken: another process listens there.
    """
    check_engine(settings.engine)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="tessera-decoder-metrics-") as folder, listening(settings) as listener:
        parent = ReplicaParent(settings, listener, folder)
        try:
            with suppress(KeyboardInterrupt):
                parent.run(sockets=[])
        finally:
            # Ended already, unless the start was broken off.
            for replica in parent.replicas:
                replica.process.ask_to_stop()
            for replica in parent.replicas:
                replica.process.stop()


def environment_of(number: int, settings: DecoderSettings, metrics_folder: str) -> dict[str, str]:
    """The environment of one replica. GPUs that CUDA_VISIBLE_DEVICES names are dealt out, one each; so are cores."""
    environment = {**os.environ, **settings.to_environment()}
    environment[MULTIPROCESS_VARIABLE] = metrics_folder
    gpus = [name for name in environment.get(_GPUS_VARIABLE, "").split(",") if name.strip()]
    if len(gpus) > 1:
        environment[_GPUS_VARIABLE] = gpus[number % len(gpus)]
    # Left to itself, vLLM's CPU build binds all replicas to the same cores, where one that waits starves the others.
    environment.setdefault(_CORES_VARIABLE, ",".join(map(str, cores_of(number, settings.replicas))))
    return environment


def cores_of(number: int, replicas: int) -> list[int]:
    """The cores of one replica; several share one where there are fewer cores than replicas."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores[number::replicas] or [cores[number % len(cores)]]


def _application_without_replica(replicas: Sequence[RunningReplica], metrics_folder: str) -> FastAPI:
    app = FastAPI(title="Tessera decoder, no replica ready", redoc_url=None)
    problems.install(app)

    @app.post("/decode")
    @app.post("/encode")
    async def decode(request: Request) -> Response:
        """Nobody can."""
        # Read to its end: a client that is still sending would not see the answer.
        async for _ in request.stream():
            pass
        troubles = _troubles(replicas)
        raise NoReplicaReady("; ".join(troubles) if troubles else None)

    @app.get("/health/live")
    async def live() -> Response:
        """The parent runs, and so will the replicas."""
        return Json({"status": "alive"})

    @app.get("/health/ready")
    async def ready() -> Response:
        """Never: were a replica ready, it would be the one to answer."""
        return Json({"status": "not_ready", "versions": [], "troubles": _troubles(replicas)}, status_code=503)

    @app.get("/metrics")
    async def exposition() -> Response:
        """What the replicas have counted so far."""
        return Response(exposition_of_replicas(metrics_folder), media_type=CONTENT_TYPE_LATEST)

    return app


def _troubles(replicas: Sequence[RunningReplica]) -> list[str]:
    return sorted({trouble for replica in replicas for trouble in replica.state.troubles})
