"""What can go wrong when items are changed, beside `app.problems`.

Problem
  NewItemUnavailable 503   TooManyChangedItems 507
"""

from collections.abc import Mapping
from typing import ClassVar

from app.problems import Problem


class NewItemUnavailable(Problem):
    """An item that no catalogue has needs a code, and nobody can give it one now."""

    status = 503
    name = "new-item-unavailable"
    title = "New items cannot be taken now"
    detail = "A new item gets its code by way of the decoder, which gave no answer. Nothing was stored; try again."
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooManyChangedItems(Problem):
    """TESSERA_OVERLAY_ITEMS items have changed since their catalogue was published."""

    status = 507
    name = "too-many-changed-items"
    title = "Too many changed items"
    detail = (
        "As many items have changed as may (TESSERA_OVERLAY_ITEMS); items that have not changed before cannot now. "
        "Nothing was stored. Raise the setting, which costs every worker memory."
    )
