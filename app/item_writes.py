"""Checks writes of items against what is there, and stores those that can be."""

from collections.abc import Sequence
from typing import Literal

from app.active_version import ActiveVersion
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_records import ItemChange
from app.item_views import knows_item
from app.settings import Settings

RejectionReason = Literal["unknown_item", "too_many_changed_items", "new_item_unavailable"]


class ItemWrites:
    """Takes writes.

    Args:
        active: the served catalogue.
        overlay: what has changed of it.
        log: where changes go.
        settings: how many items may change.
    """

    def __init__(self, active: ActiveVersion, overlay: ItemOverlay, log: ItemLog, settings: Settings) -> None:
        self._active = active
        self._overlay = overlay
        self._log = log
        self._most = settings.overlay_items

    async def write(self, changes: Sequence[ItemChange]) -> list[RejectionReason | None]:
        """Store what can be stored, all of it or, on an error, none; why not, for each change, None where it was.

        Raises:
            CacheUnavailable: nothing counts as accepted.
        """
        await self._log.sync(patient=True)
        model = self._active.served
        reasons: list[RejectionReason | None] = []
        accepted: list[ItemChange] = []
        known: dict[str, bool] = {}
        room = self._most - len(self._overlay.records)
        for change in changes:
            item_id = change.item_id
            is_known = known.get(item_id, knows_item(model, self._overlay, item_id))
            reason: RejectionReason | None = None
            if not is_known and change.operation != "put":
                reason = "unknown_item"
            elif item_id not in model.catalog and self._overlay.get(item_id) is None:
                reason = "new_item_unavailable"
            elif item_id not in known and self._overlay.get(item_id) is None:
                if room <= 0:
                    reason = "too_many_changed_items"
                else:
                    room -= 1
            reasons.append(reason)
            if reason is None:
                known[item_id] = change.operation != "delete"
                accepted.append(change)
        if accepted:
            await self._log.append(accepted)
        return reasons
