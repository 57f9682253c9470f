"""A trainer of a tiny model on a small catalogue, for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from model_store.code_tokens import CodeTokens
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder
from offline.codes.config import CodesConfig
from offline.codes.residual_kmeans import quantize
from offline.interactions import Dataset
from offline.language_model import LanguageModelConfig, build_language_model
from offline.language_model_training.global_contrast import ContrastConfig, GlobalContrast
from offline.language_model_training.step_loss import Teacher
from offline.language_model_training.task_batches import TaskBatches
from offline.leave_one_out import Histories, Split, leave_one_out
from offline.processes import Processes
from offline.tasks.examples import TaskSampler
from offline.tasks.task_mix import TaskConfig
from offline.train_language_model import LanguageModelTrainer, TrainingConfig

QUICK = TrainingConfig(epochs=2, validate_every=1, validation_users=20, items_per_batch=128)


def small_trainer(
    dataset: Dataset,
    folder: Path,
    config: TrainingConfig = QUICK,
    *,
    teacher: Teacher | None = None,
    share: float = 0.5,
    dropout: float = 0.0,
    contrast: ContrastConfig | None = None,
    keep_start: bool = False,
    processes: Processes | None = None,
) -> tuple[LanguageModelTrainer, Any, Split]:
    """A trainer, its model, and what to train it on.

    Args:
        dataset: the items and histories.
        folder: of checkpoints.
        config: settings of the training.
        teacher: of the distillation.
        share: of task examples.
        dropout: of the model.
        contrast: settings of a contrast against two sets of random vectors.
        keep_start: as of the trainer.
        processes: those that train together.
    """
    vectors = np.random.default_rng(0).normal(size=(len(dataset.catalog), 16)).astype(np.float32)
    quantization = quantize(vectors, CodesConfig(iterations=5), seed=0)
    codes, split = ItemCodes(quantization.codes_NL), leave_one_out(dataset)
    settings = LanguageModelConfig(llm="scratch:tiny", text_vocabulary=300, dropout=dropout)
    model, tokenizer = build_language_model(
        dataset.catalog, quantization.codebooks_LCD, settings, max_positions=256, seed=0
    )
    tokens = CodeTokens.from_vocabulary(tokenizer, folder)
    prompts = PromptEncoder.create(tokenizer, tokens, codes, max_history=20)
    tasks = None
    if share:
        whole = Histories(dataset.offsets, dataset.items)
        sampler = TaskSampler(split.train, dataset.catalog, codes, prompts, TaskConfig(), whole, seed=3)
        tasks = TaskBatches(sampler, share, codes.levels, tokenizer.pad_token_id, seed=3)
    beside = None
    if contrast is not None:
        other = np.random.default_rng(1).normal(size=(len(vectors), 8)).astype(np.float32)
        beside = GlobalContrast(64, vectors, other, contrast, 3, np.ones(len(vectors), dtype=np.bool_))
    trainer = LanguageModelTrainer(
        model,
        tokens,
        prompts,
        PrefixTrie.build(codes),
        teacher,
        config,
        folder,
        seed=3,
        tasks=tasks,
        contrast=beside,
        keep_start=keep_start,
        processes=processes,
    )
    return trainer, model, split
