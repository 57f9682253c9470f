"""From the codes of an entry to what an answer shows of their items, those asked for lately at hand."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import orjson

from model_store.catalog import Catalog
from model_store.item_codes import CODE_TEMPLATE, ItemCodes

_REPLACED = "\ufffd"
MAX_KEPT = 1 << 15
"""Codes kept: some 14 MB. A catalogue with more items mostly recommends a part of them."""


KnownItem: TypeAlias = tuple[int, str, bytes, bytes, bytes]
"""An item's row in the catalogue, its id, its id as histories have it, and its JSON in a cached answer: what is before
its rank, and what comes after its score.

A plain tuple: the garbage collector does not walk those.
"""


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

    def __len__(self) -> int:
        return len(self._kept)

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
        missing = [code for code in packed if code not in self._kept]
        codes_KL = np.array(missing, dtype=">u4").view(np.uint8).reshape(len(missing), -1)
        found = {
            code: self._known(row, levels)
            for code, row, levels in zip(
                missing, self._codes.items_of(codes_KL).tolist(), codes_KL.tolist(), strict=True
            )
        }
        items = [found[code] if code in found else self._kept[code] for code in packed]
        if len(self._kept) + len(found) > MAX_KEPT:
            self._kept.clear()
        self._kept.update(found)
        return items

    def _known(self, row: int, levels: list[int]) -> KnownItem | None:
        if row < 0:
            return None
        item_id = self._catalog.item_ids[row]
        before = b'{"item_id":%b,"rank":' % orjson.dumps(item_id)
        after = b',"code":%b,"reason":"cache"}' % orjson.dumps(CODE_TEMPLATE % tuple(levels))
        return row, item_id, item_id.encode(), before, after
