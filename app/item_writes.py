"""Checks writes of items against what is there, and stores those that can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from app.active_version import ActiveVersion
from app.item_log import ItemLog
from app.item_overlay import ItemOverlay
from app.item_places import ItemPlaces, NoPlace
from app.item_views import knows_item
from app.served_model import ServedModel
from app.settings import Settings
from model_store.item_records import ItemChange, Place, document, fold

RejectionReason = Literal["unknown_item", "too_many_changed_items", "new_item_unavailable"]


@dataclass(frozen=True)
class Written:
    """What became of some changes.

    Attributes:
        reasons: why each was not stored, None where it was.
        no_place: why new items could not be given codes, None where nothing was wrong.
    """

    reasons: list[RejectionReason | None]
    no_place: str | None


class ItemWrites:
    """Takes writes.

    Args:
        active: the served catalogue.
        overlay: what has changed of it.
        log: where changes go.
        places: gives codes to new items.
        settings: how many items may change.
    """

    def __init__(
        self, active: ActiveVersion, overlay: ItemOverlay, log: ItemLog, places: ItemPlaces, settings: Settings
    ) -> None:
        self._active = active
        self._overlay = overlay
        self._log = log
        self._places = places
        self._most = settings.overlay_items

    async def write(self, changes: Sequence[ItemChange]) -> Written:
        """Store what can be stored, all of it or, on an error, none.

        Raises:
            CacheUnavailable: nothing counts as accepted.
        """
        await self._log.sync(patient=True)
        model = self._active.served
        places, no_place = await self._places_for(model, changes)
        reasons: list[RejectionReason | None] = []
        accepted: list[ItemChange] = []
        known: dict[str, bool] = {}
        room = self._most - len(self._overlay.records)
        for change in changes:
            item_id = change.item_id
            is_known = known.get(item_id, knows_item(model, self._overlay, item_id))
            is_new_record = item_id not in known and self._overlay.get(item_id) is None
            reason: RejectionReason | None = None
            if not is_known and change.operation != "put":
                reason = "unknown_item"
            elif is_new_record and room <= 0:
                reason = "too_many_changed_items"
            elif change.operation == "put" and self._needs_place(model, item_id) and item_id not in places:
                reason = "new_item_unavailable"
            reasons.append(reason)
            if reason is None:
                room -= is_new_record
                known[item_id] = change.operation != "delete"
                accepted.append(_with_place(change, places.get(item_id)))
        if accepted:
            await self._log.append(accepted)
        return Written(reasons, no_place)

    async def _places_for(
        self, model: ServedModel, changes: Sequence[ItemChange]
    ) -> tuple[dict[str, Place], str | None]:
        documents = {
            change.item_id: document(change.item_id, fold(None, change))
            for change in changes
            if change.operation == "put" and self._needs_place(model, change.item_id)
        }
        # Codes are for those that can be stored.
        room = self._most - len(self._overlay.records)
        unknown = islice((i for i in documents if self._overlay.get(i) is None), max(room, 0))
        wanted = {*unknown, *(i for i in documents if self._overlay.get(i) is not None)}
        if not wanted:
            return {}, None
        try:
            return await self._places.give(model, {i: documents[i] for i in documents if i in wanted}), None
        except NoPlace as error:
            return {}, error.reason

    def _needs_place(self, model: ServedModel, item_id: str) -> bool:
        if item_id in model.catalog:
            return False
        place = (self._overlay.get(item_id) or {}).get("place")
        return place is None or place["line"] != model.bundle.cache_version


def _with_place(change: ItemChange, place: Place | None) -> ItemChange:
    if place is None or change.operation != "put":
        return change
    return change._replace(fields={**change.fields, "place": place})
