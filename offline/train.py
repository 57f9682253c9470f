"""The training pipeline: data in, a published bundle out.

    read -> split -> collaborative vectors -> text vectors -> joint vectors -> codes -> language model -> publish

Every stage writes what it made to the run's folder, whole or not at all, so a killed run continues behind the last
finished stage, and the language model behind its last finished epoch. The folder is named after the data and the
recipe, and goes when the bundle is published.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_store.bundle import Bundle, ModelStore
from model_store.code_tokens import CodeTokens
from model_store.errors import TesseraError
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder
from offline.embed_items import embed_items
from offline.interactions import Dataset
from offline.joint_embedding import JointEncoder, train_joint_embedding
from offline.language_model import build_language_model
from offline.leave_one_out import Split, leave_one_out
from offline.progress import say
from offline.publish_bundle import TrainedModel, publish
from offline.recipe import Recipe
from offline.residual_kmeans import quantize
from offline.sasrec import SASRec, train_sasrec
from offline.train_language_model import LanguageModelTrainer, Teacher

MIN_TRAINING_ITEMS = 16


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        dataset: what to train on.
        recipe: every setting.
        folder: where unfinished work is kept.
    """

    dataset: Dataset
    recipe: Recipe
    folder: Path

    @classmethod
    def create(cls, dataset: Dataset, recipe: Recipe, home: Path) -> "Run":
        """Name the run after its data and settings, so that the same command finds its unfinished work."""
        settings = json.dumps(recipe.as_dict(), sort_keys=True)
        digest = hashlib.sha256(f"{dataset.fingerprint} {settings}".encode()).hexdigest()[:16]
        return cls(dataset, recipe, home / "runs" / f"{dataset.name}-{digest}")


def train(run: Run, store: ModelStore) -> Bundle:
    """Run every stage that is not done yet and publish the result.

    Raises:
        TesseraError: the data cannot be trained on, or a setting does not fit it.
    """
    started = time.monotonic()
    split = leave_one_out(run.dataset)
    trained_items = int((_training_counts(run.dataset, split) > 0).sum())
    if trained_items < MIN_TRAINING_ITEMS or len(split.evaluation_cases("valid").targets) == 0:
        raise TesseraError(
            f"{run.dataset.name}: too little to train on: {trained_items} items with training events "
            f"(at least {MIN_TRAINING_ITEMS} needed), {len(split.evaluation_cases('valid').targets)} users with 3 or "
            "more events (at least 1 needed)"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    model = _train_stages(run, split)
    model.metrics["train_seconds"] = round(time.monotonic() - started, 1)
    version = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + run.folder.name[-6:]
    bundle = publish(store, version, run.dataset, run.recipe, model)
    shutil.rmtree(run.folder)
    return bundle


def _train_stages(run: Run, split: Split) -> TrainedModel:
    dataset, recipe, seed = run.dataset, run.recipe, run.recipe.seed
    counts = _training_counts(dataset, split)
    validation = split.evaluation_cases("valid")

    sasrec = SASRec(len(dataset.catalog), recipe.collaborative)
    sasrec_metrics = _stage(
        run,
        "collaborative",
        sasrec,
        lambda: train_sasrec(split.train, validation, len(counts), recipe.collaborative, seed),
    )
    behaviour = sasrec.item_vectors.weight.detach().numpy()

    text = _arrays(run, "text", lambda: {"vectors": embed_items(dataset.catalog, recipe.text)})["vectors"]

    def embed_jointly() -> dict[str, NDArray[Any]]:
        encoder, vectors = train_joint_embedding(text, behaviour, counts > 0, recipe.joint, seed)
        _save_weights(run.folder / "joint.safetensors", encoder)
        return {"vectors": vectors}

    joint = _arrays(run, "joint", embed_jointly)["vectors"]
    joint_encoder = JointEncoder(text.shape[1], behaviour.shape[1], recipe.joint)
    joint_encoder.load_state_dict(load_file(run.folder / "joint.safetensors"))

    quantization = quantize(joint, recipe.codes, seed)
    say(f"item codes: {quantization.report}")

    codes = ItemCodes(quantization.codes_NL)
    trie = PrefixTrie.build(codes)
    max_positions = 8 + (recipe.max_history + 1) * codes.levels
    model, tokenizer = build_language_model(
        dataset.catalog,
        quantization.codebooks_LCD,
        recipe.language_model,
        max_positions=max_positions,
        seed=seed,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    code_tokens = CodeTokens.from_vocabulary(tokenizer, Path(recipe.language_model.llm))
    prompts = PromptEncoder.create(tokenizer, code_tokens, codes, recipe.max_history)
    trainer = LanguageModelTrainer(
        model.to(device),
        code_tokens,
        prompts,
        trie,
        _teacher(sasrec.to(device)),
        recipe.training,
        run.folder / "language_model",
        seed,
    )
    training = trainer.train(split.train, validation)
    best = next(record for record in training["curve"] if record["epoch"] == training["best_epoch"])
    return TrainedModel(
        popularity=counts.astype(np.float32),
        collaborative=sasrec,
        joint_vectors=joint,
        joint_encoder=joint_encoder,
        quantization=quantization,
        language_model=model,
        tokenizer=tokenizer,
        metrics={
            "collaborative_validation": sasrec_metrics,
            "codes": quantization.report,
            "language_model": training,
            "language_model_validation": {name: value for name, value in best.items() if "@" in name},
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    )


def _teacher(sasrec: SASRec) -> Teacher:
    sasrec.eval()
    limit = sasrec.config.max_length

    def probabilities(items_BT: Tensor) -> Tensor:
        with torch.no_grad():
            # It reads no further back than it was trained to; windows of the language model are no longer than that
            # unless max_history is raised above its max_length.
            states = sasrec(items_BT[:, :limit])
            after = sasrec.scores(states).double().softmax(-1)
            missing = items_BT.shape[1] - after.shape[1]
            return torch.nn.functional.pad(after, (0, 0, 0, missing))

    return probabilities


def _training_counts(dataset: Dataset, split: Split) -> NDArray[np.int64]:
    return np.bincount(split.train.items, minlength=len(dataset.catalog))


def _arrays(run: Run, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    path = run.folder / f"{name}.npz"
    if not path.exists():
        staging = run.folder / f".{name}.npz"
        np.savez(staging, allow_pickle=False, **make())
        staging.rename(path)
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def _stage(
    run: Run, name: str, model: torch.nn.Module, make: Callable[[], tuple[torch.nn.Module, dict[str, float]]]
) -> dict[str, float]:
    """Train a model once: load it into `model` when the run has it already. Returns its metrics."""
    metrics_path = run.folder / f"{name}.json"
    if not metrics_path.exists():
        trained, metrics = make()
        _save_weights(run.folder / f"{name}.safetensors", trained)
        metrics_path.write_text(json.dumps(metrics), encoding="utf-8")
    model.load_state_dict(load_file(run.folder / f"{name}.safetensors"))
    model.eval()
    loaded: dict[str, float] = json.loads(metrics_path.read_text(encoding="utf-8"))
    return loaded


def _save_weights(path: Path, model: torch.nn.Module) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
