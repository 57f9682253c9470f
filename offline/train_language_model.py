"""Train the language model to continue histories written as codes, and to follow instructions about items.

One rendered history holds a training example for each of its items (see `model_store.prompts`), and every one is
supervised. Histories are cut into windows, batched by length, and padded on the right, where causal attention never
looks. Beside each such batch the model may read examples of other tasks (`offline.tasks`). After some epochs it is
validated as it will be used, by constrained decoding with seen items excluded; the best epoch is kept, and training
stops when it has not improved for a while.

A checkpoint after every epoch makes a killed run continue where it was, with the same result as an unbroken one.
Several processes share out the batches of each step, so n of them do what one does that accumulates n batches.

Shapes: B sequences, T items, F task families.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.code_tokens import CodeTokens
from model_store.collaborative.encoder import PADDING
from model_store.decoders.language_model import HuggingFaceModel
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder
from offline.language_model import new_tokens
from offline.language_model_training.checkpoint import Checkpoints, TrainingState
from offline.language_model_training.epoch_totals import EpochTotals
from offline.language_model_training.global_contrast import GlobalContrast
from offline.language_model_training.low_rank import (
    Adapter,
    LoraConfig,
    add_adapters,
    is_token_row,
    merge_adapters,
    take_out_adapters,
)
from offline.language_model_training.packed_forward import check_isolation
from offline.language_model_training.step_loss import StepLoss, Teacher
from offline.language_model_training.task_batches import TaskBatches
from offline.leave_one_out import EvaluationCases, Histories
from offline.processes import Processes
from offline.progress import Advance, progress
from offline.ranking_metrics import ranking_metrics, ranks_in_lists
from offline.training_batches import batches, batches_per_epoch, leave_out, windows

_RANK_SEED = 1_000_000_007
"""Far enough apart that no process draws the dropout of another one's other epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the language model's training."""

    epochs: int = 28
    items_per_batch: int = 256
    """Items of a batch, padding included; an item is L tokens."""
    accumulate: int = 1
    """Batches of a step, in each process."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.03
    """Share of all steps over which the learning rate rises."""
    clip_norm: float = 1.0
    distillation: float = 0.5
    """Share of the loss that follows the collaborative encoder's item probabilities; 0 switches it off."""
    item_dropout: float = 0.2
    """Share of a history's items left out at random in each epoch."""
    task_weight: float = 0.1
    """Of the mean loss of task examples, beside the mean loss of the sequential task's items. A step holds hundreds of
    items and a dozen examples: with a weight of 1 their noise alone costs a small model a third of its NDCG@10, and it
    learns the tasks less well too."""
    softmax: str = "children"
    """Of a code's tokens: over a node's `children`, as they are decoded, or over all code tokens of a `level`."""
    method: str = "full"
    """`full`: train every weight; `lora`: adapters and the new tokens' rows."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    precision: str = "auto"
    """Of matrix products: `float32`, `bfloat16`, or `auto` for bfloat16 where a GPU has it. Weights are float32."""
    validate_every: int = 4
    """Epochs between validations."""
    patience: int = 3
    """Validations without a better NDCG@10 after which training stops."""
    validation_users: int = 5000
    validation_beam: int = 20

    def __post_init__(self) -> None:
        for name, choices in (
            ("softmax", ("children", "level")),
            ("method", ("full", "lora")),
            ("precision", ("auto", "float32", "bfloat16")),
        ):
            if getattr(self, name) not in choices:
                raise TesseraError(f"training.{name} must be {', '.join(choices)}, not {getattr(self, name)!r}")
        if self.method != "lora" and not self.lora.merge:
            raise TesseraError(
                f"training.lora.merge=false keeps adapters apart, and training.method={self.method} has none; "
                "choose training.method=lora"
            )
        if self.accumulate < 1:
            raise TesseraError(f"training.accumulate must be at least 1, not {self.accumulate}")


class LanguageModelTrainer:
    """One training run of one model.

    Args:
        model: the model to train, in place.
        code_tokens, prompts, trie: how items become tokens.
        teacher: the collaborative encoder's opinion, or None.
        config: settings.
        folder: where checkpoints go; a run that finds one continues it.
        seed: of batches, tasks and dropout.
        tasks: examples of other tasks, or None for the sequential one alone.
        contrast: of items' states against their vectors, or None; trained along, and of no use afterwards.
        keep_start: validate the model before the first step too, and keep it where no epoch is better.
        processes: those that train together, each with a trainer like this one.

    Attributes:
        adapter: after training with `training.lora.merge=false`, what belongs beside the model.
    """

    def __init__(
        self,
        model: Any,
        code_tokens: CodeTokens,
        prompts: PromptEncoder,
        trie: PrefixTrie,
        teacher: Teacher | None,
        config: TrainingConfig,
        folder: Path,
        seed: int,
        *,
        tasks: TaskBatches | None = None,
        contrast: GlobalContrast | None = None,
        keep_start: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self._model, self._config, self._seed, self._tasks = model, config, seed, tasks
        self._keep_start = keep_start
        self._code_tokens, self._prompts, self._trie = code_tokens, prompts, trie
        self._processes = processes or Processes()
        self._device = next(model.parameters()).device
        if tasks is not None:
            check_isolation(model)
        self._adapters = None
        self.adapter: Adapter | None = None
        if config.method == "lora":
            self._adapters = add_adapters(model, self._new_token_ids(), config.lora, seed)
        self._step_loss = self._processes.parallel(
            StepLoss(
                model,
                code_tokens,
                prompts,
                trie,
                teacher,
                distillation=config.distillation,
                task_weight=config.task_weight,
                autocast=_uses_bfloat16(config.precision, self._device),
                contrast=contrast,
                softmax=config.softmax,
            )
        )
        self._contrast = contrast
        self._checkpoints = Checkpoints(folder, model, self._processes, beside=contrast)

    def train(self, histories: Histories, validation: EvaluationCases) -> dict[str, Any]:
        """Train; returns what happened, for the manifest.

        The best epoch's weights are left in the model, less the adapter where that is kept apart (see `adapter`).
        """
        config = self._config
        pieces = windows(histories, self._prompts.max_history)
        count = batches_per_epoch(pieces, config.items_per_batch, config.item_dropout)
        # Batches differ a little from epoch to epoch; two spare ones keep the schedule from wrapping around.
        total_steps = config.epochs * math.ceil((count + 2) / self._batches_per_step)
        optimizer = self._optimizer()
        state = self._checkpoints.resume(optimizer, self._device)
        with self._progress() as advance:
            if state.epoch:
                advance(state.epoch, "(continued)")
            elif self._keep_start:
                metrics = self.validate(validation)
                self._checkpoints.keep_if_best(state, metrics["ndcg@10"])
                state.curve.append({"epoch": 0.0} | metrics)
            while state.epoch < config.epochs and state.stale < config.patience:
                record = self._epoch(pieces, optimizer, state, total_steps)
                state.epoch += 1
                record = {"epoch": float(state.epoch)} | record
                if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
                    metrics = self.validate(validation)
                    record |= metrics
                    self._checkpoints.keep_if_best(state, metrics["ndcg@10"])
                state.curve.append(record)
                self._checkpoints.save(state, optimizer)
                advance(1, f"loss {record['loss']:.3f}, best validation NDCG@10 {max(state.best_ndcg, 0):.4f}")
        self._checkpoints.load_best()
        if self._adapters is not None:
            if config.lora.merge:
                merge_adapters(self._model, self._adapters)
            else:
                self.adapter = take_out_adapters(self._model, self._adapters)
        self._model.eval()
        self._processes.wait()
        return {"best_epoch": state.best_epoch, "epochs": state.epoch, "curve": state.curve}

    def validate(self, cases: EvaluationCases) -> dict[str, float]:
        """Metrics of constrained decoding, seen items excluded, over a fixed sample of the cases."""
        decoder = TorchDecoder(HuggingFaceModel(self._model), self._code_tokens, self._prompts, self._trie)
        chosen = np.random.default_rng(self._seed).permutation(len(cases.targets))[: self._config.validation_users]
        own = chosen[self._processes.rank :: self._processes.count]
        requests = []
        for row in own:
            history = cases.histories[int(row)]
            requests.append(
                DecodeRequest(history=history, n=20, beam_width=self._config.validation_beam, excluded=history)
            )
        lists = [[decoded.item for decoded in answer] for answer in decoder.decode(requests)]
        ranks = self._processes.gather(ranks_in_lists(lists, cases.targets[own]))
        return ranking_metrics(np.concatenate(ranks))

    @property
    def _batches_per_step(self) -> int:
        return self._config.accumulate * self._processes.count

    def _epoch(
        self, pieces: list[NDArray[np.int32]], optimizer: torch.optim.Optimizer, state: TrainingState, total_steps: int
    ) -> dict[str, float]:
        # Seeded by epoch, so that a continued run sees what an unbroken one would have seen.
        torch.manual_seed(self._seed * 100_003 + state.epoch + _RANK_SEED * self._processes.rank)
        rng = np.random.default_rng((self._seed, state.epoch))
        self._model.train()
        drawn = list(batches(leave_out(pieces, self._config.item_dropout, rng), self._config.items_per_batch, rng))
        totals = EpochTotals()
        for start in range(0, len(drawn), self._batches_per_step):
            step = drawn[start : start + self._batches_per_step]
            self._gradients(step, start, state.epoch, totals)
            for part in (self._model, self._contrast):
                if part is not None:
                    torch.nn.utils.clip_grad_norm_(part.parameters(), self._config.clip_norm)
            shape = _warmup_then_cosine(state.step / total_steps, self._config.warmup_share)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * shape
            optimizer.step()
            state.step += 1
        return totals.record(self._processes, levels=self._trie.levels)

    def _gradients(self, step: list[NDArray[np.int32]], start: int, epoch: int, totals: EpochTotals) -> None:
        """Leave in the parameters the gradients of a step: of the mean over all of its batches, by their items."""
        rank, count = self._processes.rank, self._processes.count
        sizes = [int((batch != PADDING).sum()) for batch in step]
        rounds = math.ceil(len(step) / count)
        for turn in range(rounds):
            at = turn * count + rank
            # At an epoch's end some have no batch left, but all must take part: they repeat one that counts nothing.
            spare = at >= len(step)
            at = 0 if spare else at
            items_BT = torch.from_numpy(step[at].astype(np.int64)).to(self._device)
            tasks = None
            if self._tasks is not None and not spare:
                tasks = self._tasks.beside(sizes[at], epoch, start + at)
            # Gradients are averaged over processes, so each one's are that much larger.
            weight = 0.0 if spare else sizes[at] * count / sum(sizes)
            last = turn == rounds - 1
            with nullcontext() if last else self._processes.unsynchronised(self._step_loss):
                losses = self._step_loss(items_BT, tasks)
                if turn == 0:
                    # Not before the forward pass: the backward pass then finds their memory free and still in cache.
                    self._step_loss.zero_grad(set_to_none=True)
                (losses.total * weight).backward()
            if not spare:
                totals.add(losses, sizes[at], tasks)

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self._config
        trained = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        if config.method == "lora":
            adapters = [p for name, p in trained if not is_token_row(name)]
            rows = [p for name, p in trained if is_token_row(name)]
            groups = [
                (adapters, config.weight_decay, config.lora.learning_rate),
                (rows, 0.0, config.lora.token_learning_rate),
            ]
        else:
            matrices, vectors = [p for _, p in trained if p.ndim >= 2], [p for _, p in trained if p.ndim < 2]
            groups = [
                (matrices, config.weight_decay, config.learning_rate),
                (vectors, 0.0, config.learning_rate),
            ]
        if self._contrast is not None:
            groups.append((list(self._contrast.parameters()), config.weight_decay, config.learning_rate))
        return torch.optim.AdamW(
            [{"params": params, "weight_decay": decay, "initial_lr": rate} for params, decay, rate in groups],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    def _new_token_ids(self) -> list[int]:
        ids: list[int] = self._prompts.tokenizer.convert_tokens_to_ids(new_tokens())
        return ids

    def _progress(self) -> AbstractContextManager[Advance]:
        if self._processes.is_main:
            return progress("language model", self._config.epochs, "epochs")
        return nullcontext(_say_nothing)


def _uses_bfloat16(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def _warmup_then_cosine(done: float, warmup_share: float) -> float:
    if done < warmup_share:
        return max(done / warmup_share, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup_share) / (1 - warmup_share))))


def _say_nothing(amount: int = 1, note: str = "") -> None:
    """Stand in for a progress report in a process that is not to print."""
