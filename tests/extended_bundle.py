"""Extensions of the bundles that tests build, with codes and vectors made up: no text encoder is needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_store.bundle import Bundle, ModelStore
from model_store.catalog import Catalog
from model_store.publish_extension import publish_extension

NEW_CATEGORY = "brand new"


def extend(store: Path, base: Bundle, *, items: int = 3, seed: int = 9, hidden: Sequence[int] = ()) -> Bundle:
    """Publish the base and `items` more, called `new-0` and on, all of them in a category of their own.

    Items of the base in `hidden` are out of stock in the extension.
    """
    random = np.random.default_rng(seed)
    old, model_store = base.catalog, ModelStore(store)
    line = model_store.line_of(base.cache_version)
    taken = {code.tobytes() for version in line for code in version.item_codes.codes_NL}
    codes = []
    while len(codes) < items:
        # Beside an old item, as the code of a similar text would be.
        code = np.array(base.item_codes.codes_NL[random.integers(len(old))])
        code[-1] = random.integers(256)
        if code.tobytes() not in taken:
            taken.add(code.tobytes())
            codes.append(code)
    vectors = random.normal(size=(items, base.item_embeddings.shape[1])).astype(np.float32)
    first = sum(version.manifest.extends is not None for version in line) * items
    names = tuple(f"new-{first + number}" for number in range(items))
    catalog = Catalog(
        item_ids=old.item_ids + names,
        titles=old.titles + names,
        texts=old.texts + ("",) * items,
        categories=old.categories + ((NEW_CATEGORY,),) * items,
        prices=np.append(old.prices, np.full(items, 5, dtype=np.float32)),
        attributes=old.attributes + ({},) * items,
        available=np.append(old.available, np.ones(items, dtype=np.bool_)),
    )
    catalog.available[list(hidden)] = False
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return publish_extension(model_store, base, catalog, np.array(codes), vectors, {"added": items})
