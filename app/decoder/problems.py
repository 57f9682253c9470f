"""What can go wrong in the decoder process, as problem+json (see `problems`).

VersionNotLoaded 409   DecodeQueueFull 429   DecodeFailed 500   EngineGone 503   NoReplicaReady 503
DeadlinePassed 504
"""

from collections.abc import Mapping
from typing import ClassVar

from app.problems import Problem


class VersionNotLoaded(Problem):
    """The version asked for is not in the store, or its model cannot be decoded."""

    status = 409
    name = "version-not-loaded"
    title = "The version cannot be decoded"
    detail = "The version is not in the store, or its model cannot be decoded."


class DecodeQueueFull(Problem):
    """As many decodes wait as may wait."""

    status = 429
    name = "decode-queue-full"
    title = "Too many decodes are waiting"
    detail = "Ask again in a moment, or answer from another source."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}


class DecodeFailed(Problem):
    """The engine raised something that was not expected."""

    status = 500
    name = "decode-failed"
    title = "The decode failed"
    detail = "The failure was logged."


class EngineGone(Problem):
    """The engine's process ended; it is being started again."""

    status = 503
    name = "engine-gone"
    title = "The engine is being restarted"
    detail = "The engine's process ended; it is being started again."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class NoReplicaReady(Problem):
    """Several processes share the address, and none has a version loaded."""

    status = 503
    name = "no-replica-ready"
    title = "No replica is ready"
    detail = "The decoder's replicas are being started."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class DeadlinePassed(Problem):
    """Not finished within the deadline."""

    status = 504
    name = "deadline-passed"
    title = "Deadline passed"
    detail = "The decode did not finish within deadline_ms."
