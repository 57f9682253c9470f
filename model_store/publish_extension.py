"""Publish a version that holds the items of another and more, and shares all its other files.

The language model, the encoders and the codebooks stay what they are, so their files are hard links, and an item keeps
its index and its code: what was decoded under the base stays true, and its cache entries are shared (`cache_version`).

Shapes: N items of the base, M new items, L levels, D vector size.
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model_store.bundle import Bundle, ModelStore
from model_store.catalog import Catalog
from model_store.item_codes import ItemCodes
from model_store.manifest import FORMAT_VERSION, describe_files

_OWN_FILES = ("items.parquet", "item_codes.npy", "popularity.npy", "item_embeddings.npy", "items.faiss")
"""What an extension does not share with its base."""


def publish_extension(
    store: ModelStore,
    base: Bundle,
    catalog: Catalog,
    codes_ML: NDArray[np.uint8],
    vectors_MD: NDArray[np.float32],
    notes: dict[str, Any],
) -> Bundle:
    """Publish the next extension of a version; the store holds it whole or not at all.

    Args:
        store: where the base is published.
        base: an opened version; an extension can be extended again.
        catalog: the base's N items in their order, whatever is known of them now, then the M new ones.
        codes_ML: uint8, the new items' codes, which no version of the line has given to another item.
        vectors_MD: float32, unit length, in the space of the base's item vectors.
        notes: goes into the manifest's metrics, under "extension".

    Raises:
        BundleCorrupt: two items share a code, or the files cannot be written.
        ValueError: the catalogue does not begin with the base's items.
    """
    old = len(base.catalog)
    if catalog.item_ids[:old] != base.catalog.item_ids or len(catalog) != old + len(codes_ML):
        raise ValueError("an extension holds the base's items in their order, and then those with new codes")
    codes = ItemCodes(np.concatenate([base.item_codes.codes_NL, codes_ML]))
    version = store.next_extension(base)
    with store.publishing(version) as (folder, finish):
        shared = {name: record for name, record in base.manifest.files.items() if name not in _OWN_FILES}
        for name in shared:
            link_or_copy(base.path / name, folder / name)
        pq.write_table(catalog.to_table(), folder / "items.parquet")
        np.save(folder / "item_codes.npy", codes.codes_NL)
        np.save(folder / "popularity.npy", np.append(base.popularity, np.zeros(len(codes_ML), dtype=np.float32)))
        np.save(folder / "item_embeddings.npy", np.concatenate([base.item_embeddings, vectors_MD], dtype=np.float32))
        index = faiss.read_index(str(base.faiss_path))
        index.add(np.ascontiguousarray(vectors_MD, dtype=np.float32))
        faiss.write_index(index, str(folder / "items.faiss"))
        return finish(
            base.manifest.model_copy(
                update={
                    "format_version": FORMAT_VERSION,
                    "version": version,
                    "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
                    "items": len(catalog),
                    "metrics": base.manifest.metrics | {"extension": notes},
                    "files": describe_files(folder, known=shared),
                    "extends": base.version,
                    "cache_version": base.cache_version,
                }
            )
        )


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where links are not to be had."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # Another file system, or one without links.
        shutil.copyfile(source, target)
