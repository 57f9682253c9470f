"""What can go wrong where events, reads and blocks are written."""

from collections.abc import Mapping
from typing import ClassVar

from app.problems import Problem


class TooManyBlocks(Problem):
    """More blocked items than a user can have."""

    status = 409
    name = "too-many-blocks"
    title = "Too many blocked items"
    detail = "A user can have 1000 blocked items; nothing was changed. Unblock some first."


class NotAReadType(Problem):
    """`write_back_type` is none of TESSERA_READ_TYPES."""

    status = 422
    name = "not-a-read-type"
    title = "Not a type of reads"
    detail = "write_back_type must be one of the server's read types (TESSERA_READ_TYPES)."


class TooManyEvents(Problem):
    """As many events are being written as TESSERA_EVENT_QUEUE allows."""

    status = 429
    name = "too-many-events"
    title = "Too many events at once"
    detail = "As many events as allowed are being written; nothing of this request was recorded. Send it again."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "1"}
