"""Codebooks of what a catalogue itself says: broad and narrow categories, brands, price bands.

They stand where no vocabulary has been written for a domain; a shop's style, emotion and ideology, so to speak.

Shapes: N items, C labels.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.errors import TesseraError

_MOST_LABELS = 24
_PRICE_BANDS = ("cheap", "affordable", "dear", "luxury")


def catalog_codebooks(catalog: Catalog, count: int) -> list[tuple[str, tuple[str, ...], NDArray[np.float32]]]:
    """The first so many that the catalogue has two labels for: name, labels, and which fit each item ([N, C], 0 or 1).

    Raises:
        TesseraError: it says too little.
    """
    found: list[tuple[str, tuple[str, ...], NDArray[np.float32]]] = []
    for name, values in (
        ("category", [own[:1] for own in catalog.categories]),
        ("kind", [own[-1:] if len(own) > 1 else () for own in catalog.categories]),
        ("brand", [(own["brand"],) if own.get("brand") else () for own in catalog.attributes]),
        ("price", _bands(catalog.prices)),
        ("feature", list(catalog.categories)),
    ):
        labels = tuple(label for label, _ in Counter(one for own in values for one in own).most_common(_MOST_LABELS))
        if len(labels) > 1 and len(found) < count:
            hits = np.array([[label in own for label in labels] for own in values], np.float32)
            found.append((name, labels, hits))
    if len(found) < count:
        raise TesseraError(
            f"the catalogue has {len(found)} of {count} codebooks ({', '.join(name for name, *_ in found) or 'none'}); "
            "it needs categories, brands or prices, or a codebook file: set codebooks=FILE.toml"
        )
    return found


def _bands(prices: NDArray[np.float32]) -> list[Sequence[str]]:
    """Quarters of the prices that are known."""
    known = ~np.isnan(prices)
    if not known.any():
        return [()] * len(prices)
    bands = np.searchsorted(np.quantile(prices[known], (0.25, 0.5, 0.75)), prices)
    return [(_PRICE_BANDS[band],) if there else () for band, there in zip(bands, known, strict=True)]
