"""Items made up for tests of the codes: a few kinds of them, which text and behaviour both tell apart."""

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.codes.config import CascadeConfig, CodesConfig
from offline.codes.item_vectors import ItemVectors

TEXT_SIZE, BEHAVIOUR_SIZE, JOINT_SIZE = 24, 12, 10
QUICK = CascadeConfig(
    hidden=32, size=8, projection=16, epochs=3, warmup_epochs=2, batch=64, patience=2, learning_rate=1e-2
)
"""A cascade that trains in a moment, to nowhere in particular."""


def made_vectors(count: int, *, kinds: int = 8, unknown: int = 0, seed: int = 0) -> tuple[ItemVectors, NDArray]:
    """Vectors of items and the kind of each; the last `unknown` ones have no training events."""
    random = np.random.default_rng(seed)
    kind_of = random.integers(0, kinds, count)

    def side(size: int) -> NDArray[np.float32]:
        centres = random.normal(size=(kinds, size))
        return (centres[kind_of] + 0.4 * random.normal(size=(count, size))).astype(np.float32)

    joint = side(JOINT_SIZE)
    joint /= np.linalg.norm(joint, axis=1, keepdims=True)
    known = np.arange(count) < count - unknown
    return ItemVectors(side(TEXT_SIZE), side(BEHAVIOUR_SIZE), joint, known), kind_of


def quick_config(**settings: object) -> CodesConfig:
    """Settings of codes that are made in a moment."""
    return CodesConfig(**{"iterations": 5, "text_size": 6, "cascade": QUICK, **settings})


def made_catalog(
    categories: list[tuple[str, ...]], brands: list[str] | None = None, titles: list[str] | None = None
) -> Catalog:
    """A catalogue of items of these categories."""
    count = len(categories)
    return Catalog(
        item_ids=tuple(f"item-{number}" for number in range(count)),
        titles=tuple(titles or [f"Title {number}" for number in range(count)]),
        texts=tuple(f"What there is to say of thing {number}" + " indeed" * (number % 5) for number in range(count)),
        categories=tuple(categories),
        prices=np.ones(count, dtype=np.float32),
        attributes=tuple({"brand": brand} if brand else {} for brand in brands or [""] * count),
        available=np.ones(count, dtype=np.bool_),
    )
