"""What one worker knows of items that have changed since their catalogue was published, and who must hear of it."""

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from model_store.item_log import BEGINNING, LogEntry, LogId, parse_id
from model_store.item_records import ItemRecord, fold, unpack_changes

_FOLLOWED_TOGETHER = 1000


class FollowsItems(Protocol):
    """Holds what follows from records, such as a filter."""

    def apply(self, records: Mapping[str, ItemRecord | None]) -> None:
        """Take over changed records, None for an item that is as published again."""
        ...


class ItemOverlay:
    """Records by item id, folded from the log up to `cursor`. Belongs to one event loop."""

    def __init__(self) -> None:
        self.cursor = BEGINNING
        self.placed: set[str] = set()
        """Items that have a place, deleted ones too."""
        self._records: dict[str, ItemRecord] = {}
        # Whoever still answers with a version hears of changes; a version that nobody uses any more is forgotten.
        self._followers: weakref.WeakSet[FollowsItems] = weakref.WeakSet()

    @property
    def records(self) -> Mapping[str, ItemRecord]:
        """Every item that has changed."""
        return MappingProxyType(self._records)

    def get(self, item_id: str) -> ItemRecord | None:
        """An item's record; None where it is as published, or not known at all."""
        return self._records.get(item_id)

    def is_deleted(self, item_id: str) -> bool:
        """Whether the item was there and is no more."""
        return self._records.get(item_id, {}).get("deleted", False)

    def apply(self, entries: Sequence[LogEntry]) -> list[LogId]:
        """Fold entries of the log, oldest first; returns the ids of those behind the cursor, the others have been."""
        changed: dict[str, ItemRecord | None] = {}
        folded: list[LogId] = []
        for entry_id, fields in entries:
            at = parse_id(entry_id)
            if at <= self.cursor:
                continue
            for change in unpack_changes(fields):
                changed[change.item_id] = self._records[change.item_id] = fold(
                    self._records.get(change.item_id), change
                )
            self.cursor = at
            folded.append(at)
        if changed:
            self.placed.update(item_id for item_id, record in changed.items() if record and "place" in record)
            self._tell(changed)
        return folded

    def replace(self, records: dict[str, ItemRecord], cursor: LogId) -> None:
        """Take over what was read anew from its beginning."""
        before, self._records, self.cursor = self._records, records, cursor
        self.placed = {item_id for item_id, record in records.items() if "place" in record}
        changed = {item_id: records.get(item_id) for item_id in before if item_id not in records}
        changed |= {item_id: record for item_id, record in records.items() if before.get(item_id) != record}
        if changed:
            self._tell(changed)

    async def follow(self, follower: FollowsItems) -> None:
        """Bring somebody up to date, and keep them so for as long as they live."""
        self._followers.add(follower)
        item_ids = list(self._records)
        for start in range(0, len(item_ids), _FOLLOWED_TOGETHER):
            # Those of this moment: what changes meanwhile is told apart from this.
            follower.apply({i: self._records.get(i) for i in item_ids[start : start + _FOLLOWED_TOGETHER]})
            await asyncio.sleep(0)

    def _tell(self, changed: Mapping[str, ItemRecord | None]) -> None:
        for follower in list(self._followers):
            follower.apply(changed)
