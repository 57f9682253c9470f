"""Write what was trained as a bundle of the model store."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import buckets_for
from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.collaborative.encoder_files import save_encoder
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from model_store.manifest import ADAPTER_FOLDER, Manifest, describe_files
from model_store.prompts import PROMPT_VERSION
from offline.codes.code_report import write_code_report
from offline.codes.export_quantizer import export_quantizer
from offline.codes.joint_embedding import JointEncoder
from offline.codes.quantization import Quantization
from offline.interactions import Dataset
from offline.language_model_training.low_rank import Adapter
from offline.language_model_training.report import write_report
from offline.recipe import Recipe
from offline.run_record import library_versions

_EXACT_INDEX_UP_TO = 200_000
_HNSW_NEIGHBOURS = 32


@dataclass(frozen=True)
class TrainedModel:
    """Everything the training stages made.

    Attributes:
        popularity: events per item in training; float32 [N].
        teacher: the encoder that was distilled, where it is not the collaborative one.
        adapter: what belongs beside the language model, where it is kept apart.
        tasks: families the language model was trained on beside the sequential one.
        joint_vectors: unit length; float32 [N, D].
        metrics: what was measured on the way.
    """

    popularity: NDArray[np.float32]
    collaborative: CollaborativeEncoder
    teacher: CollaborativeEncoder | None
    joint_vectors: NDArray[np.float32]
    joint_encoder: JointEncoder
    quantization: Quantization
    language_model: Any
    adapter: Adapter | None
    tokenizer: Any
    tasks: tuple[str, ...]
    metrics: dict[str, Any]


def publish(store: ModelStore, version: str, dataset: Dataset, recipe: Recipe, model: TrainedModel) -> Bundle:
    """Publish a version; the store holds it whole or not at all."""
    with store.publishing(version) as (folder, finish):
        pq.write_table(dataset.catalog.to_table(), folder / "items.parquet")
        np.save(folder / "item_codes.npy", model.quantization.codes_NL)
        np.save(folder / "popularity.npy", model.popularity)
        np.save(folder / "item_embeddings.npy", model.joint_vectors)
        faiss.write_index(_neighbour_index(model.joint_vectors), str(folder / "items.faiss"))
        save_encoder(folder / "encoder", model.collaborative)
        if model.teacher is not None:
            save_encoder(folder / "teacher", model.teacher)
        export_quantizer(folder / "quantizer", model.joint_encoder, model.quantization, recipe.text, recipe.seed)
        (folder / "llm").mkdir()
        model.language_model.save_pretrained(folder / "llm", safe_serialization=True)
        model.tokenizer.save_pretrained(folder / "llm")
        if model.adapter is not None:
            model.adapter.save(folder / ADAPTER_FOLDER)
        write_report(folder / "report", model.metrics["language_model"])
        write_code_report(folder / "report", dataset.catalog, model.popularity, model.quantization)
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
                tasks=model.tasks,
                max_history=recipe.max_history,
                collaborative_weight=recipe.ranking.collaborative_weight,
                config=recipe.as_dict(),
                metrics=model.metrics,
                versions=library_versions(),
                files=describe_files(folder),
                cache_buckets=buckets_for(len(dataset.user_ids)),
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
