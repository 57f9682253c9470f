"""From the codes of an entry to what an answer shows of their items, those asked for lately at hand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model_store.catalog import Catalog
from model_store.item_codes import ItemCodes, code_text

_REPLACED = "\ufffd"
MAX_KEPT = 1 << 15
"""Codes kept: some 10 MB. A catalogue with more items mostly recommends a part of them."""


class KnownItem(NamedTuple):
    """One item.

    Attributes:
        row: its index in the catalogue.
        item_id: its id.
        stored_id: its id as histories have it.
        code: its code as the model writes it.
    """

    row: int
    item_id: str
    stored_id: bytes
    code: str


class ItemsByCode:
    """Looks items up by code.

    Args:
        codes: of all items.
        catalog: the items.
    """

    def __init__(self, codes: ItemCodes, catalog: Catalog) -> None:
        self._codes = codes
        self._catalog = catalog
        self._kept: dict[int, KnownItem | None] = {}
        # Of a history that is no UTF-8 such an id may be what is read.
        self._certain = not any(_REPLACED in item_id for item_id in catalog.item_ids)

    def of(self, packed: Sequence[int]) -> list[KnownItem | None] | None:
        """The items of codes, each one big-endian number as in `ItemCodes.packed`; None where no item has that code.

        None instead of a list where ids of the catalogue cannot be told from stored ones by their bytes.
        """
        if not self._certain:
            return None
        kept = self._kept
        try:
            return [kept[code] for code in packed]
        except KeyError:
            return self._look_up(packed)

    def _look_up(self, packed: Sequence[int]) -> list[KnownItem | None]:
        if len(self._kept) + len(packed) > MAX_KEPT:
            self._kept.clear()
        codes_KL = np.array(packed, dtype=">u4").view(np.uint8).reshape(len(packed), -1)
        found = [self._known(index) for index in self._codes.items_of(codes_KL).tolist()]
        self._kept.update(zip(packed, found, strict=True))
        return found

    def _known(self, index: int) -> KnownItem | None:
        if index < 0:
            return None
        item_id = self._catalog.item_ids[index]
        return KnownItem(index, item_id, item_id.encode(), code_text(self._codes.codes_NL[index]))
