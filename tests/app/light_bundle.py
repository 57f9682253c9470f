"""A published bundle without a language model: what the API opens, built in milliseconds."""

from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from model_store.bundle import Bundle, ModelStore
from model_store.catalog import Catalog
from model_store.item_codes import LEVEL_LETTERS
from model_store.manifest import Manifest, describe_files
from model_store.prompts import PROMPT_VERSION

CATEGORIES = ("audio", "garden", "kitchen", "toys")
OUT_OF_STOCK = (3, 17, 29)
"""Items of a light bundle that are not available."""
UNPRICED = (4, 11)
"""Items whose price is not known."""
_DIMENSIONS = 8


def publish_light_bundle(
    store: Path,
    version: str = "light-1",
    *,
    items: int = 50,
    seed: int = 0,
    tasks: tuple[str, ...] = ("query_to_code", "query_with_history"),
) -> Bundle:
    """Publish and activate a bundle of `items` items, all of it decided by the seed."""
    random = np.random.default_rng(seed)
    model_store = ModelStore(store)
    with model_store.publishing(version) as (folder, publish):
        pq.write_table(_catalog(random, items).to_table(), folder / "items.parquet")
        packed = random.choice(2**20, size=items, replace=False).astype(">u4")
        np.save(folder / "item_codes.npy", packed.view(np.uint8).reshape(items, len(LEVEL_LETTERS)))
        np.save(folder / "popularity.npy", random.permutation(items).astype(np.float32))
        vectors = random.normal(size=(items, _DIMENSIONS)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / "item_embeddings.npy", vectors)
        index = faiss.IndexFlatIP(_DIMENSIONS)
        index.add(vectors)
        faiss.write_index(index, str(folder / "items.faiss"))
        bundle = publish(
            Manifest(
                version=version,
                created_at=datetime.now(UTC).isoformat(),
                recipe="light",
                seed=seed,
                dataset="light",
                data_fingerprint="0" * 64,
                items=items,
                code_levels=len(LEVEL_LETTERS),
                codebook_size=256,
                prompt_version=PROMPT_VERSION,
                tasks=tasks,
                max_history=8,
                config={},
                metrics={"recall@10": 0.5},
                versions={},
                files=describe_files(folder),
            )
        )
    model_store.activate(version)
    return bundle


def _catalog(random: np.random.Generator, items: int) -> Catalog:
    available = np.ones(items, dtype=np.bool_)
    prices = random.uniform(1, 100, items).astype(np.float32)
    available[list(OUT_OF_STOCK)] = False
    prices[list(UNPRICED)] = np.nan
    return Catalog(
        item_ids=tuple(f"item-{number}" for number in range(items)),
        titles=tuple(f"Title {number}" for number in range(items)),
        texts=("",) * items,
        categories=tuple(tuple(category for category in CATEGORIES if random.random() < 0.4) for _ in range(items)),
        prices=prices,
        attributes=({},) * items,
        available=available,
    )
