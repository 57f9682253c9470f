"""What the catalogue says of items, as an encoder reads it.

Shapes: N items, X text size, K labels.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """Text vectors and labels of all items.

    A label is a category, or the value of an attribute such as a brand, that two items or more have.

    Attributes:
        text_NX: float32, by the text encoder.
        labels: the labels of item after item, end to end; int64.
        offsets: where each item's labels begin; int64 [N].
        label_count: K.
    """

    text_NX: NDArray[np.float32]
    labels: NDArray[np.int64]
    offsets: NDArray[np.int64]
    label_count: int

    @classmethod
    def of(cls, catalog: Catalog, text_NX: NDArray[np.float32]) -> "ItemFeatures":
        """Read a catalogue."""
        names = [
            # A value is told from the same word elsewhere: "Orange" is a colour, a brand and a category.
            dict.fromkeys([("", category) for category in categories] + list(attributes.items()))
            for categories, attributes in zip(catalog.categories, catalog.attributes, strict=True)
        ]
        counts = Counter(name for of_item in names for name in of_item)
        shared = {name: number for number, name in enumerate(name for name, count in counts.items() if count > 1)}
        numbers = [[shared[name] for name in of_item if name in shared] for of_item in names]
        lengths = [len(of_item) for of_item in numbers]
        return cls(
            text_NX,
            np.array([number for of_item in numbers for number in of_item], dtype=np.int64),
            np.cumsum([0, *lengths])[:-1].astype(np.int64),
            len(shared),
        )
