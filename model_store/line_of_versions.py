"""What the versions of one line of extensions know of items beside each other.

A code belongs to one item in all versions of a line: cache entries hold codes, and the versions of a line share them.

Shapes: M items, L levels, D vector size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model_store.bundle import Bundle, ModelStore


@dataclass(frozen=True)
class KnownPlaces:
    """What is given already.

    Attributes:
        taken: packed codes of every item of the base and of the versions beside it; uint32, some more than once.
        codes_ML: uint8, of the items asked for, where they are placed.
        vectors_MD: float32, likewise.
        placed_M: bool, the items to which a version beside the base has given a place.
    """

    taken: NDArray[np.uint32]
    codes_ML: NDArray[np.uint8]
    vectors_MD: NDArray[np.float32]
    placed_M: NDArray[np.bool_]


def known_places(store: ModelStore, base: Bundle, item_ids: Sequence[str]) -> KnownPlaces:
    """Look up items that the base does not have in the versions beside it.

    Args:
        store: where the base is published.
        base: a version, which may be an extension.
        item_ids: M items.
    """
    codes_ML = np.empty((len(item_ids), base.item_codes.levels), dtype=np.uint8)
    vectors_MD = np.empty((len(item_ids), base.item_embeddings.shape[1]), dtype=np.float32)
    placed_M = np.zeros(len(item_ids), dtype=np.bool_)
    taken = [base.item_codes.packed]
    for sibling in _versions_beside(store, base):
        taken.append(sibling.item_codes.packed)
        with pq.ParquetFile(sibling.path / "items.parquet") as file:
            theirs = file.read(["item_id"])["item_id"].to_pylist()
        index_of = {item_id: index for index, item_id in enumerate(theirs)}
        for row, item_id in enumerate(item_ids):
            if not placed_M[row] and (index := index_of.get(item_id)) is not None:
                codes_ML[row] = sibling.item_codes.codes_NL[index]
                vectors_MD[row] = sibling.item_embeddings[index]
                placed_M[row] = True
    return KnownPlaces(np.concatenate(taken), codes_ML, vectors_MD, placed_M)


def _versions_beside(store: ModelStore, base: Bundle) -> list[Bundle]:
    """Versions of the base's line that are not behind it: theirs may be items and codes that the base does not know."""
    line = {bundle.version: bundle for bundle in store.line_of(base.cache_version)}
    # All of them extend the one that was trained, even where one in between has been deleted.
    line.pop(base.cache_version, None)
    behind: str | None = base.version
    while behind is not None:
        bundle = line.pop(behind, None)
        behind = bundle.manifest.extends if bundle is not None else None
    return list(line.values())
