"""The training pipeline: data in, a published bundle out.

    read -> split -> text vectors -> collaborative vectors -> joint vectors -> codes -> language model -> publish
                          `-------> teacher -----------------------------------------------^

Every stage writes what it made to the run's folder, whole or not at all, so a killed run continues behind the last
finished stage, and the language model behind its last finished epoch. The folder is named after the data and the
recipe, and goes when the bundle is published. Runs that share a folder of stages make a stage once when its settings,
and those of the stages before it, are the same.

Several processes (see `offline.processes`) train the language model together; every other stage is the main one's.
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

from model_store.bundle import Bundle, ModelStore
from model_store.code_tokens import CodeTokens
from model_store.collaborative.configs import EncoderConfig, SASRecConfig
from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.collaborative.encoder_files import build_encoder
from model_store.errors import TesseraError
from model_store.float32_products import use_fast_float32_products
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import MAX_INSTRUCTION_TOKENS, PromptEncoder
from offline.codes.item_vectors import ItemVectors
from offline.codes.joint_embedding import JointEncoder, train_joint_embedding
from offline.codes.make_codes import make_codes
from offline.codes.quantization import Quantization
from offline.codes.text_targets import text_targets
from offline.collaborative.item_features import ItemFeatures
from offline.collaborative.kinds import train_encoder
from offline.embed_items import embed_items
from offline.freed_memory import keep_freed_memory
from offline.interactions import Dataset
from offline.language_model import build_language_model
from offline.language_model_training.global_contrast import GlobalContrast
from offline.language_model_training.task_batches import TaskBatches
from offline.leave_one_out import Histories, Split, leave_one_out
from offline.processes import Processes
from offline.progress import say
from offline.publish_bundle import TrainedModel, publish
from offline.recipe import Recipe
from offline.tasks.examples import MAX_TEXT_TOKENS, TaskSampler
from offline.train_language_model import LanguageModelTrainer

MIN_TRAINING_ITEMS = 16


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        dataset: what to train on.
        recipe: every setting.
        folder: where unfinished work is kept.
        stages: where finished stages are kept; `folder` unless runs share them.
    """

    dataset: Dataset
    recipe: Recipe
    folder: Path
    stages: Path

    @classmethod
    def create(cls, dataset: Dataset, recipe: Recipe, home: Path, shared: Path | None = None) -> "Run":
        """Name the run after its data and settings, so that the same command finds its unfinished work.

        `shared` is a folder for the stages of several runs; it stays when they are published.
        """
        settings = json.dumps(recipe.as_dict(), sort_keys=True)
        digest = hashlib.sha256(f"{dataset.fingerprint} {settings}".encode()).hexdigest()[:16]
        folder = home / "runs" / f"{dataset.name}-{digest}"
        return cls(dataset, recipe, folder, shared or folder)

    def stage(self, name: str, *depends_on: object) -> Path:
        """Where a stage's results go, less the file's ending: named after all that they depend on."""
        depends = repr((self.dataset.fingerprint, self.recipe.seed, *depends_on))
        return self.stages / f"{name}-{hashlib.sha256(depends.encode()).hexdigest()[:16]}"


def train(run: Run, store: ModelStore) -> Bundle:
    """Run every stage that is not done yet and publish the result.

    It returns in the main process. The others have nothing left to do when the language model is trained, and end.

    Raises:
        TesseraError: the data cannot be trained on, or a setting does not fit it.
    """
    started = time.monotonic()
    keep_freed_memory()
    use_fast_float32_products()
    split = leave_one_out(run.dataset)
    trained_items = int((_training_counts(run.dataset, split) > 0).sum())
    if trained_items < MIN_TRAINING_ITEMS or len(split.evaluation_cases("valid").targets) == 0:
        raise TesseraError(
            f"{run.dataset.name}: too little to train on: {trained_items} items with training events "
            f"(at least {MIN_TRAINING_ITEMS} needed), {len(split.evaluation_cases('valid').targets)} users with 3 or "
            "more events (at least 1 needed)"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    run.stages.mkdir(parents=True, exist_ok=True)
    processes = Processes()
    model = _train_stages(run, split, processes)
    processes.end()
    if not processes.is_main:
        raise SystemExit(0)
    model.metrics["train_seconds"] = round(time.monotonic() - started, 1)
    version = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + run.folder.name[-6:]
    bundle = publish(store, version, run.dataset, run.recipe, model)
    shutil.rmtree(run.folder)
    return bundle


def _train_stages(run: Run, split: Split, processes: Processes) -> TrainedModel:
    if not processes.is_main:
        # For what the main process makes alone and leaves in the run's folder.
        processes.wait()
    dataset, recipe, seed = run.dataset, run.recipe, run.recipe.seed
    counts = _training_counts(dataset, split)
    validation = split.evaluation_cases("valid")

    text_stage = run.stage("text", recipe.text)
    text = _arrays(text_stage, lambda: {"vectors": embed_items(dataset.catalog, recipe.text)})["vectors"]

    def train_one(config: EncoderConfig) -> tuple[CollaborativeEncoder, dict[str, float]]:
        reads = isinstance(config, SASRecConfig) and config.item_features
        features = ItemFeatures.of(dataset.catalog, text) if reads else None
        return train_encoder(split.train, validation, len(counts), config, seed, processes.device, features)

    def encoder(config: EncoderConfig) -> tuple[CollaborativeEncoder, dict[str, float], Path]:
        model = build_encoder(len(dataset.catalog), config)
        stage = run.stage("encoder", config, text_stage.name)
        metrics = _trained(stage, model, lambda: train_one(config))
        return model.to(processes.device), metrics, stage

    collaborative, collaborative_metrics, collaborative_stage = encoder(recipe.collaborative)
    teacher, teacher_metrics, _ = encoder(recipe.teacher or recipe.collaborative)
    behaviour = collaborative.vectors().detach().cpu().numpy()

    joint_stage = run.stage("joint", recipe.joint, text_stage.name, collaborative_stage.name)

    def embed_jointly() -> dict[str, NDArray[Any]]:
        encoder, vectors = train_joint_embedding(text, behaviour, counts > 0, recipe.joint, seed)
        _save_weights(joint_stage.with_suffix(".safetensors"), encoder)
        return {"vectors": vectors}

    joint = _arrays(joint_stage, embed_jointly)["vectors"]
    joint_encoder = JointEncoder(text.shape[1], behaviour.shape[1], recipe.joint)
    joint_encoder.load_state_dict(load_file(joint_stage.with_suffix(".safetensors")))

    def tokenize() -> dict[str, NDArray[Any]]:
        llm, limit, device = recipe.language_model.llm, recipe.text.max_tokens, processes.device
        targets = text_targets(dataset.catalog, text, recipe.codes, llm, limit, device)
        vectors = ItemVectors(text, behaviour, joint, counts > 0)
        return make_codes(vectors, targets, recipe.codes, seed, device).as_arrays()

    codes_stage = run.stage("codes", recipe.codes, recipe.language_model.llm, joint_stage.name)
    quantization = Quantization.from_arrays(_arrays(codes_stage, tokenize))
    if processes.is_main:
        codes_made = quantization.report
        say(
            f"item codes: {codes_made['items']} items, {codes_made['entries']} entries a level, "
            f"{codes_made['items_moved']} items moved to make codes unique"
        )

    codes = ItemCodes(quantization.codes_NL)
    trie = PrefixTrie.build(codes)
    # The longest sequence: a full history, an instruction with its markers, and an answer in words or as a code.
    max_positions = 8 + recipe.max_history * codes.levels + MAX_INSTRUCTION_TOKENS + MAX_TEXT_TOKENS
    model, tokenizer = build_language_model(
        dataset.catalog,
        quantization.codebooks_LCD,
        recipe.language_model,
        max_positions=max_positions,
        seed=seed,
        token_vectors_LCH=quantization.token_vectors_LCH,
    )
    code_tokens = CodeTokens.from_vocabulary(tokenizer, Path(recipe.language_model.llm))
    prompts = PromptEncoder.create(tokenizer, code_tokens, codes, recipe.max_history)
    tasks = _tasks(run, split, codes, prompts)
    if processes.is_main:
        processes.wait()
    contrast = None
    if recipe.contrast.wanted:
        hidden = model.get_input_embeddings().weight.shape[1]
        contrast = GlobalContrast(hidden, text, behaviour, recipe.contrast, seed, counts > 0).to(processes.device)
    model.to(processes.device)
    parts = (code_tokens, prompts, trie, teacher.likelihoods)
    trainer = LanguageModelTrainer(
        model,
        *parts,
        recipe.training,
        run.folder / "language_model",
        seed,
        tasks=tasks,
        contrast=contrast,
        processes=processes,
    )
    phases = {"language_model": trainer.train(split.train, validation)}
    best = _best_epoch(phases["language_model"])
    if recipe.annealing.epochs:
        settings, folder = recipe.annealing.after(recipe.training), run.folder / "annealing"
        annealer = LanguageModelTrainer(model, *parts, settings, folder, seed, keep_start=True, processes=processes)
        phases["annealing"] = annealer.train(split.train, validation)
        best = _best_epoch(phases["annealing"])
    return TrainedModel(
        popularity=counts.astype(np.float32),
        collaborative=collaborative,
        teacher=teacher if recipe.teacher is not None else None,
        joint_vectors=joint,
        joint_encoder=joint_encoder,
        quantization=quantization,
        language_model=model,
        adapter=trainer.adapter,
        tokenizer=tokenizer,
        tasks=tasks.families if tasks is not None else (),
        metrics={
            "collaborative_validation": collaborative_metrics,
            "teacher_validation": teacher_metrics,
            "codes": quantization.report,
            **phases,
            "language_model_validation": {name: value for name, value in best.items() if "@" in name},
            "parameters": sum(p.numel() for p in model.parameters())
            + (trainer.adapter.parameters if trainer.adapter is not None else 0),
        },
    )


def _best_epoch(training: dict[str, Any]) -> dict[str, float]:
    """What was measured of the epoch that was kept."""
    record: dict[str, float] = next(one for one in training["curve"] if one["epoch"] == training["best_epoch"])
    return record


def _tasks(run: Run, split: Split, codes: ItemCodes, prompts: PromptEncoder) -> TaskBatches | None:
    dataset, config, seed = run.dataset, run.recipe.tasks, run.recipe.seed
    if config.share == 0:
        return None
    whole = Histories(dataset.offsets, dataset.items)
    sampler = TaskSampler(split.train, dataset.catalog, codes, prompts, config, whole, seed)
    return TaskBatches(sampler, config.share, codes.levels, prompts.tokenizer.pad_token_id or 0, seed)


def _training_counts(dataset: Dataset, split: Split) -> NDArray[np.int64]:
    return np.bincount(split.train.items, minlength=len(dataset.catalog))


def _arrays(stage: Path, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    path = stage.with_suffix(".npz")
    if not path.exists():
        staging = stage.with_suffix(".part.npz")
        np.savez(staging, allow_pickle=False, **make())
        staging.rename(path)
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}


def _trained(
    stage: Path, model: torch.nn.Module, make: Callable[[], tuple[torch.nn.Module, dict[str, float]]]
) -> dict[str, float]:
    """Train a model once: load it into `model` when the stage is there already. Returns its metrics."""
    metrics_path = stage.with_suffix(".json")
    if not metrics_path.exists():
        trained, metrics = make()
        _save_weights(stage.with_suffix(".safetensors"), trained)
        staging = stage.with_suffix(".part.json")
        staging.write_text(json.dumps(metrics), encoding="utf-8")
        staging.rename(metrics_path)
    model.load_state_dict(load_file(stage.with_suffix(".safetensors")))
    model.eval()
    loaded: dict[str, float] = json.loads(metrics_path.read_text(encoding="utf-8"))
    return loaded


def _save_weights(path: Path, model: torch.nn.Module) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
