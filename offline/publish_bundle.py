"""Write what was trained as a bundle of the model store."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.torch import save_file

from model_store.bundle import Bundle, ModelStore
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from model_store.manifest import Manifest, describe_files
from model_store.prompts import PROMPT_VERSION
from offline.interactions import Dataset
from offline.joint_embedding import JointEncoder
from offline.recipe import Recipe
from offline.residual_kmeans import Quantization
from offline.run_record import library_versions
from offline.sasrec import SASRec

_EXACT_INDEX_UP_TO = 200_000
_HNSW_NEIGHBOURS = 32


@dataclass(frozen=True)
class TrainedModel:
    """Everything the training stages made.

    Attributes:
        popularity: events per item in training; float32 [N].
        joint_vectors: unit length; float32 [N, D].
        metrics: what was measured on the way.
    """

    popularity: NDArray[np.float32]
    collaborative: SASRec
    joint_vectors: NDArray[np.float32]
    joint_encoder: JointEncoder
    quantization: Quantization
    language_model: Any
    tokenizer: Any
    metrics: dict[str, Any]


def publish(store: ModelStore, version: str, dataset: Dataset, recipe: Recipe, model: TrainedModel) -> Bundle:
    """Publish a version; the store holds it whole or not at all."""
    with store.publishing(version) as (folder, finish):
        pq.write_table(dataset.catalog.to_table(), folder / "items.parquet")
        np.save(folder / "item_codes.npy", model.quantization.codes_NL)
        np.save(folder / "popularity.npy", model.popularity)
        np.save(folder / "item_embeddings.npy", model.joint_vectors)
        faiss.write_index(_neighbour_index(model.joint_vectors), str(folder / "items.faiss"))
        _write_encoder(folder / "encoder", model.collaborative)
        _write_quantizer(folder / "quantizer", recipe, model)
        (folder / "llm").mkdir()
        model.language_model.save_pretrained(folder / "llm", safe_serialization=True)
        model.tokenizer.save_pretrained(folder / "llm")
        return finish(
            Manifest(
                version=version,
                created_at=datetime.now(UTC).isoformat(timespec="microseconds"),
                recipe=recipe.name,
                seed=recipe.seed,
                dataset=dataset.name,
                data_fingerprint=dataset.fingerprint,
                items=len(dataset.catalog),
                code_levels=len(LEVEL_LETTERS),
                codebook_size=CODEBOOK_SIZE,
                prompt_version=PROMPT_VERSION,
                max_history=recipe.max_history,
                config=recipe.as_dict(),
                metrics=model.metrics,
                versions=library_versions(),
                files=describe_files(folder),
            )
        )


def _neighbour_index(vectors_ND: NDArray[np.float32]) -> Any:
    index: Any
    if len(vectors_ND) <= _EXACT_INDEX_UP_TO:
        index = faiss.IndexFlatIP(vectors_ND.shape[1])
    else:
        index = faiss.IndexHNSWFlat(vectors_ND.shape[1], _HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.add(np.ascontiguousarray(vectors_ND))
    return index


def _write_encoder(folder: Path, sasrec: SASRec) -> None:
    folder.mkdir()
    save_file(sasrec.state_dict(), folder / "model.safetensors")
    config = {"kind": "sasrec", **dataclasses.asdict(sasrec.config)}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _write_quantizer(folder: Path, recipe: Recipe, model: TrainedModel) -> None:
    folder.mkdir()
    np.save(folder / "codebooks.npy", model.quantization.codebooks_LCD)
    save_file(model.joint_encoder.state_dict(), folder / "joint_encoder.safetensors")
    config = {"kind": "joint", "entries": model.quantization.report["entries"]}
    config |= {"text": dataclasses.asdict(recipe.text), "joint": dataclasses.asdict(recipe.joint)}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
