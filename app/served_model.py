"""One model version, opened for serving: everything the API derives from a bundle, and nothing that needs the model."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.eligibility import Eligibility
from app.items_by_code import ItemsByCode
from app.latest_items import LatestItems
from app.neighbors import Neighbors
from app.popular_items import PopularItems
from model_store.bundle import MODEL_FOLDERS, Bundle, ModelStore
from model_store.cache_keys import EntryLayout
from model_store.catalog import Catalog
from model_store.errors import UnknownItem
from model_store.item_codes import CODE_TEMPLATE


@dataclass(frozen=True, eq=False)
class ServedModel:
    """What answers are made of. Immutable: a request keeps the one it began with.

    Attributes:
        bundle: where it comes from.
        catalog: the items.
        eligibility: the filter over them.
        neighbors: items near items.
        popular: items by popularity.
        latest: items by age.
    """

    bundle: Bundle
    catalog: Catalog
    eligibility: Eligibility
    neighbors: Neighbors
    popular: PopularItems
    latest: LatestItems

    @classmethod
    def open(cls, store: ModelStore, version: str, *, filter_cache_bytes: int) -> "ServedModel":
        """Open and verify a version, the language model's folders apart.

        Raises:
            BundleNotFound, BundleCorrupt, UnsupportedBundleFormat: it cannot be served.
        """
        bundle = store.open(version, skip=MODEL_FOLDERS)
        catalog = bundle.catalog
        # Built here rather than at the first request that needs it: opening happens off the event loop.
        _ = bundle.item_codes.items_of(bundle.item_codes.codes_NL[:1])
        model = cls(
            bundle=bundle,
            catalog=catalog,
            eligibility=Eligibility(catalog, bundle.trie, cache_bytes=filter_cache_bytes),
            # A copy: whatever becomes of the file, this version goes on.
            neighbors=Neighbors(np.array(bundle.item_embeddings), bundle.faiss_path),
            popular=PopularItems(bundle.popularity),
            latest=LatestItems(catalog),
        )
        _ = model.items_by_code
        return model

    @cached_property
    def version(self) -> str:
        """The version's name."""
        return self.bundle.version

    @cached_property
    def entry_layout(self) -> EntryLayout:
        """Where its entries are in Redis."""
        return self.bundle.entry_layout

    @cached_property
    def items_by_code(self) -> ItemsByCode:
        """The items of codes, as answers show them."""
        return ItemsByCode(self.bundle.item_codes, self.catalog)

    @property
    def takes_queries(self) -> bool:
        """Whether its model was trained to read queries."""
        return self.bundle.manifest.takes_queries

    @property
    def ranker(self) -> str | None:
        """The recipe of its ranker; None where it has none."""
        record = self.bundle.manifest.ranker
        return None if record is None else record.recipe

    async def prepare(self) -> None:
        """Build what only some requests need, so that the first of them does not wait."""
        await asyncio.to_thread(self.eligibility.prepare)
        await asyncio.to_thread(self.neighbors.prepare)
        await asyncio.to_thread(self.latest.prepare)

    def indices_of(self, item_ids: Iterable[str]) -> list[int]:
        """Item indices in the order given; ids that this catalogue does not have are left out."""
        indices = []
        for item_id in item_ids:
            try:
                indices.append(self.catalog.index_of(item_id))
            except UnknownItem:
                # Histories outlive catalogues.
                continue
        return indices

    def items_of_codes(self, codes_KL: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Item indices of codes, -1 where no item has that code; int64 [K]."""
        return self.bundle.item_codes.items_of(codes_KL)

    def codes_of(self, items: Sequence[int]) -> list[str]:
        """The items' codes as the model writes them."""
        rows = self.bundle.item_codes.codes_NL[np.asarray(items, dtype=np.intp)].tolist()
        return [CODE_TEMPLATE % tuple(row) for row in rows]
