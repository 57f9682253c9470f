"""The Ray cluster that a refresh runs on: one that is there, or one of this machine that ends with the command."""

import importlib.util
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from model_store.errors import TesseraError

LOCAL = "local"
"""The address that stands for a cluster of this machine."""

_CONNECT_TIMEOUT_S = 5.0
_OBJECT_STORE_BYTES = 256 << 20
"""Of a local cluster. What is in it is the list of users; beyond this Ray puts it on the disk."""


@dataclass(frozen=True)
class Workers:
    """The processes that a refresh runs in.

    Attributes:
        count: how many.
        cpus: what Ray reserves for each, and the threads of its decoder.
        gpus: what Ray reserves for each; a part of one is shared.
    """

    count: int
    cpus: int
    gpus: float


@contextmanager
def ray_workers(
    address: str, *, count: int | None = None, cpus: int = 1, gpus: float | None = None
) -> Iterator[Workers]:
    """Connect to a cluster, or start one, and see how many workers it holds; leave it, or end it, at the end.

    A cluster of this machine listens on loopback alone, and only to processes that have its token.

    Args:
        address: LOCAL, or what Ray takes: `auto`, `host:port`.
        count: workers; as many as fit into the cluster by default.
        cpus: of each worker.
        gpus: of each worker; one by default if the cluster has any.

    Raises:
        TesseraError: Ray is not installed, does not answer or does not start, or no worker fits into the cluster.
    """
    if importlib.util.find_spec("ray") is None:
        raise TesseraError("--ray needs the ray extra: `pip install 'tessera[ray]'`")
    _see_that_something_listens(address)
    with (
        _environment(address),
        tempfile.TemporaryDirectory(prefix="tessera-ray-", ignore_cleanup_errors=True) as folder,
    ):
        import ray

        _keep_quiet()
        local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": folder}
        try:
            ray.init(address, log_to_driver=False, logging_level="error", **(local if address == LOCAL else {}))
        # Whatever is wrong between here and there: Ray has no class of its own for it.
        except Exception as error:
            said = next(iter(str(error).splitlines()), "")
            raise TesseraError(
                f"--ray {address}: no cluster to work on, Ray said: {type(error).__name__}: {said}"
            ) from None
        try:
            yield _fitting(address, [node["Resources"] for node in ray.nodes() if node["Alive"]], count, cpus, gpus)
        finally:
            ray.shutdown()


def _see_that_something_listens(address: str) -> None:
    """Ray itself would ask an address where nobody is for minutes."""
    if address.startswith("ray://"):
        raise TesseraError(
            f"--ray {address}: Ray Data does not work through Ray's client; run the command on a node of the cluster"
        )
    where = urlsplit(f"//{address}")
    try:
        if where.hostname and where.port:
            socket.create_connection((where.hostname, where.port), _CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise TesseraError(f"--ray {address}: nothing answers there: {error}") from None


def _fitting(address: str, nodes: list[dict[str, float]], count: int | None, cpus: int, gpus: float | None) -> Workers:
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
    room = 0
    for node in nodes:
        of_cpus = int(node.get("CPU", 0) // cpus)
        room += min(of_cpus, int(node.get("GPU", 0) / gpus)) if gpus else of_cpus
    # A cluster of several machines may grow when it is asked for more.
    if (count is None and not room) or (address == LOCAL and (count or 0) > room):
        raise TesseraError(
            f"--ray {address}: {count or 1} workers of {cpus} CPUs and {gpus:g} GPUs do not fit, {room} do; "
            "see --workers, --worker-cpus and --worker-gpus"
        )
    return Workers(count or room, cpus, gpus)


@contextmanager
def _environment(address: str) -> Iterator[None]:
    """The environment variables that Ray must find when it is imported and started; put back afterwards."""
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        # What Ray's own layers call errors includes that workers can be restarted.
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    if address == LOCAL:
        wanted |= {
            # Off, a node's address is the loopback one, on Linux too, and nothing listens elsewhere.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _token(),
        }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@cache
def _token() -> str:
    # One for the life of the process: Ray reads it once. One that is set already may have been read.
    return os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)


def _keep_quiet() -> None:
    """Keep Ray Data's tables and bars out of our output: whatever fails comes as an exception."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
