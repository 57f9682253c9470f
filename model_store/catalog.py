"""The items that can be recommended, as both sides see them.

An item's index is its row in `items.parquet`, and row i of every array beside it (codes, popularity, embeddings).
Shapes: N items.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_store.errors import BundleCorrupt, UnknownItem

SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("price", pa.float32()),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("available", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True, eq=False)
class Catalog:
    """All items of one model version, in index order.

    Raises:
        ValueError: the fields differ in length, or an item id occurs twice.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    """The description; empty when there is none. The brand is in `attributes`."""
    categories: tuple[tuple[str, ...], ...]
    """Each item's categories, the broadest first where the source says so."""
    prices: NDArray[np.float32]
    """Shape (N,), in the shop's currency; NaN where unknown."""
    attributes: tuple[dict[str, str], ...]
    """Whatever else is known, by name: `brand` for one."""
    available: NDArray[np.bool_]
    """Shape (N,), False for what is out of stock."""
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name))
            for name in ("item_ids", "titles", "texts", "categories", "prices", "attributes", "available")
        }
        if len(set(lengths.values())) != 1:
            raise ValueError(f"catalogue fields differ in length: {lengths}")
        object.__setattr__(self, "_index", {item_id: index for index, item_id in enumerate(self.item_ids)})
        if len(self._index) != len(self.item_ids):
            raise ValueError("an item id occurs twice in the catalogue")

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._index

    def index_of(self, item_id: str) -> int:
        """Index of an item.

        Raises:
            UnknownItem: no item has this id.
        """
        try:
            return self._index[item_id]
        except KeyError:
            raise UnknownItem(f"no item {item_id!r} in the catalogue") from None

    def document(self, index: int) -> str:
        """What a text encoder reads of an item."""
        return document_of(self.titles[index], self.attributes[index], self.categories[index], self.texts[index])

    def select(self, rows: NDArray[np.integer]) -> "Catalog":
        """The catalogue of some items, in the order given."""
        chosen = rows.tolist()
        return Catalog(
            item_ids=tuple(self.item_ids[row] for row in chosen),
            titles=tuple(self.titles[row] for row in chosen),
            texts=tuple(self.texts[row] for row in chosen),
            categories=tuple(self.categories[row] for row in chosen),
            prices=self.prices[rows],
            attributes=tuple(self.attributes[row] for row in chosen),
            available=self.available[rows],
        )

    def joined(self, other: "Catalog") -> "Catalog":
        """These items and then those of another catalogue."""
        return Catalog(
            item_ids=self.item_ids + other.item_ids,
            titles=self.titles + other.titles,
            texts=self.texts + other.texts,
            categories=self.categories + other.categories,
            prices=np.concatenate([self.prices, other.prices]),
            attributes=self.attributes + other.attributes,
            available=np.concatenate([self.available, other.available]),
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> "Catalog":
        """The catalogue stored in a table of `SCHEMA` (more columns are ignored).

        Raises:
            BundleCorrupt: a column is missing or of another type, or the rows make no catalogue.
        """
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        if missing:
            raise BundleCorrupt(f"items.parquet has no column {', '.join(missing)}")
        try:
            columns = table.select(SCHEMA.names).cast(SCHEMA)
            return cls(
                item_ids=tuple(columns["item_id"].to_pylist()),
                titles=tuple(columns["title"].to_pylist()),
                texts=tuple(columns["text"].to_pylist()),
                categories=tuple(tuple(names) for names in columns["categories"].to_pylist()),
                # A null price becomes NaN. Not `to_numpy`: where pandas is installed, that imports it.
                prices=np.array(columns["price"].to_pylist(), dtype=np.float32),
                attributes=tuple(json.loads(text) for text in columns["attributes"].to_pylist()),
                available=np.array(columns["available"].to_pylist(), dtype=np.bool_),
            )
        # Arrow's cast errors are ValueErrors too, as is a JSON error; null where none may be makes a TypeError.
        except (ValueError, TypeError, pa.ArrowException) as error:
            raise BundleCorrupt(f"items.parquet does not hold a catalogue: {error}") from error

    def to_table(self) -> pa.Table:
        """The catalogue as a table of `SCHEMA`; unknown prices are null, attributes are JSON with sorted keys."""
        return pa.Table.from_arrays(
            [
                pa.array(self.item_ids, pa.string()),
                pa.array(self.titles, pa.string()),
                pa.array(self.texts, pa.string()),
                pa.array([list(names) for names in self.categories], pa.list_(pa.string())),
                pa.array(self.prices, pa.float32(), mask=np.isnan(self.prices)),
                pa.array([json.dumps(a, ensure_ascii=False, sort_keys=True) for a in self.attributes], pa.string()),
                pa.array(self.available, pa.bool_()),
            ],
            schema=SCHEMA,
        )


def document_of(title: str, attributes: Mapping[str, str], categories: Iterable[str], text: str) -> str:
    """What a text encoder reads of an item: title, brand, categories, description, those it has."""
    parts = (title, attributes.get("brand", ""), ", ".join(categories), text)
    return ". ".join(part.rstrip(" .") for part in parts if part.strip(" ."))
