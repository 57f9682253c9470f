"""What can go wrong with model versions and refreshes that an operator asks for.

Problem
  ModelNotFound 404   ModelUnusable 409   NoEarlierModel 409   StoreReadOnly 409
  RefreshNotFound 404   RefreshQueueFull 429   NoRefreshWorker 503
"""

from collections.abc import Mapping
from typing import ClassVar

from app.problems import Problem


class ModelNotFound(Problem):
    """A version that the store does not have."""

    status = 404
    name = "model-not-found"
    title = "No such model version"
    detail = "The store has no version of this name; GET /models lists them."


class ModelUnusable(Problem):
    """A version whose files are not as published, or are of another format."""

    status = 409
    name = "model-unusable"
    title = "The model version cannot be served"
    detail = "Its files are not as published. Nothing was changed."


class NoEarlierModel(Problem):
    """Nothing was served before."""

    status = 409
    name = "no-earlier-model"
    title = "No earlier model version"
    detail = "No other version was active before, so there is none to go back to. Nothing was changed."


class StoreReadOnly(Problem):
    """The process may not write into the store."""

    status = 409
    name = "store-read-only"
    title = "The store cannot be written"
    detail = (
        "This server cannot write into its store, where it is kept which version is active; the same is served on. Run "
        "`tessera models activate VERSION` or `tessera models rollback` where it can be written."
    )


class RefreshNotFound(Problem):
    """An id that no refresh has, or that of one long ago."""

    status = 404
    name = "refresh-not-found"
    title = "No such refresh"
    detail = "No refresh has this id, or it was more than a week ago."


class RefreshQueueFull(Problem):
    """As many refreshes wait as may."""

    status = 429
    name = "refresh-queue-full"
    title = "Too many refreshes wait"
    detail = "Ten refreshes are waiting. Cancel one, or ask again when they are done. Nothing was queued."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "60"}


class NoRefreshWorker(Problem):
    """Nobody would do it."""

    status = 503
    name = "no-refresh-worker"
    title = "No worker for refreshes"
    detail = (
        "No `tessera worker` has been heard of. Start one where the model extra is installed, with this server's "
        "TESSERA_REDIS_URL and TESSERA_STORE; `tessera serve` starts one itself where it can, unless TESSERA_JOBS is "
        "none. Nothing was queued."
    )
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}
