"""Train the language model to continue histories written as codes.

One rendered history holds a training example for each of its items (see `model_store.prompts`), and every one is
supervised. Histories are cut into windows, batched by length, and padded on the right, where causal attention never
looks. After some epochs the model is validated as it will be used, by constrained decoding with seen items excluded;
the best epoch is kept, and training stops when it has not improved for a while.

A checkpoint after every epoch makes a killed run continue where it was, with the same result as an unbroken one.

Shapes: B sequences, T items, L levels, H hidden size, P supervised positions, N items.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_store.code_tokens import CodeTokens
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder
from offline.leave_one_out import EvaluationCases, Histories
from offline.progress import progress
from offline.ranking_metrics import ranking_metrics, ranks_in_lists
from offline.training_batches import PADDING, batches, windows
from offline.trie_loss import TrieLoss

Teacher = Callable[[Tensor], Tensor]
"""Items int64 [B, T] padded with -1 -> item probabilities after each of them, float64 [B, T, N]."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of the language model's training."""

    epochs: int = 28
    items_per_batch: int = 256
    """Items of a batch, padding included; an item is L tokens."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.03
    """Share of all steps over which the learning rate rises."""
    clip_norm: float = 1.0
    distillation: float = 0.5
    """Share of the loss that follows the collaborative encoder's item probabilities; 0 switches it off."""
    item_dropout: float = 0.2
    """Share of a history's items left out at random in each epoch."""
    validate_every: int = 4
    """Epochs between validations."""
    patience: int = 3
    """Validations without a better NDCG@10 after which training stops."""
    validation_users: int = 5000
    validation_beam: int = 20


@dataclass
class _State:
    """What a checkpoint holds besides tensors."""

    epoch: int = 0
    step: int = 0
    best_ndcg: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


class LanguageModelTrainer:
    """One training run of one model.

    Args:
        model: the model to train, in place.
        code_tokens, prompts, trie: how items become tokens.
        teacher: the collaborative encoder's opinion, or None.
        config: settings.
        folder: where checkpoints go; a run that finds one continues it.
        seed: of batches and dropout.
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
    ) -> None:
        self._model, self._teacher, self._config = model, teacher, config
        self._code_tokens, self._prompts, self._trie = code_tokens, prompts, trie
        self._folder, self._seed = folder, seed
        self._device = next(model.parameters()).device
        code_ids = torch.as_tensor(code_tokens.ids_LC, dtype=torch.int64, device=self._device)
        self._loss = TrieLoss(trie, code_ids, self._device)
        self._item_tokens_NL = torch.as_tensor(prompts.item_tokens_NL, dtype=torch.int64, device=self._device)
        self._preamble = torch.tensor(prompts.preamble, device=self._device)

    def train(self, histories: Histories, validation: EvaluationCases) -> dict[str, Any]:
        """Train; leaves the best epoch's weights in the model and returns what happened, for the manifest."""
        config = self._config
        pieces = windows(histories, self._prompts.max_history)
        steps_per_epoch = sum(1 for _ in batches(pieces, config.items_per_batch, np.random.default_rng(0)))
        # Batches differ a little from epoch to epoch; two spare steps keep the schedule from wrapping around.
        total_steps = config.epochs * (steps_per_epoch + 2)
        optimizer = self._optimizer()
        state = self._resume(optimizer)
        with progress("language model", config.epochs, "epochs") as advance:
            if state.epoch:
                advance(state.epoch, "(continued)")
            while state.epoch < config.epochs and state.stale < config.patience:
                loss, tokens = self._epoch(pieces, optimizer, state, total_steps)
                state.epoch += 1
                record = {"epoch": float(state.epoch), "loss": loss, "tokens": float(tokens)}
                if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
                    metrics = self.validate(validation)
                    record |= metrics
                    self._keep_if_best(state, metrics["ndcg@10"])
                state.curve.append(record)
                self._checkpoint(state, optimizer)
                advance(1, f"loss {loss:.3f}, best validation NDCG@10 {max(state.best_ndcg, 0):.4f}")
        self._model.load_state_dict(load_file(self._folder / "best.safetensors"), strict=False)
        self._model.eval()
        return {"best_epoch": state.best_epoch, "epochs": state.epoch, "curve": state.curve}

    def validate(self, cases: EvaluationCases) -> dict[str, float]:
        """Metrics of constrained decoding, seen items excluded, over a fixed sample of the cases."""
        decoder = TorchDecoder(self._model, self._code_tokens, self._prompts, self._trie)
        chosen = np.random.default_rng(self._seed).permutation(len(cases.targets))[: self._config.validation_users]
        requests = []
        for row in chosen:
            history = cases.histories[int(row)]
            requests.append(
                DecodeRequest(history=history, n=20, beam_width=self._config.validation_beam, excluded=history)
            )
        lists = [[decoded.item for decoded in answer] for answer in decoder.decode(requests)]
        return ranking_metrics(ranks_in_lists(lists, cases.targets[chosen]))

    def _epoch(
        self, pieces: list[NDArray[np.int32]], optimizer: torch.optim.Optimizer, state: _State, total_steps: int
    ) -> tuple[float, int]:
        # Seeded by epoch, so that a continued run sees what an unbroken one would have seen.
        torch.manual_seed(self._seed * 100_003 + state.epoch)
        rng = np.random.default_rng((self._seed, state.epoch))
        self._model.train()
        losses, counts = [], []
        for batch in batches(_drop_items(pieces, self._config.item_dropout, rng), self._config.items_per_batch, rng):
            items_BT = torch.from_numpy(batch.astype(np.int64)).to(self._device)
            loss = self._batch_loss(items_BT)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._config.clip_norm)
            rate = self._config.learning_rate * _warmup_then_cosine(state.step / total_steps, self._config.warmup_share)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            state.step += 1
            losses.append(loss.item())
            counts.append(int((batch != PADDING).sum()))
        tokens = sum(counts) * self._item_tokens_NL.shape[1]
        return float(np.average(losses, weights=counts)), tokens

    def _batch_loss(self, items_BT: Tensor) -> Tensor:
        batch, length = items_BT.shape
        levels = self._item_tokens_NL.shape[1]
        real_BT = items_BT != PADDING
        tokens = self._item_tokens_NL[items_BT.clamp(min=0)].flatten(1)
        inputs = torch.cat([self._preamble.expand(batch, -1), tokens[:, :-1]], dim=1)
        hidden = self._model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        # The state that predicts a token is the one before it.
        states_BTLH = hidden[:, len(self._preamble) - 1 :].reshape(batch, length, levels, -1)
        teacher_PN = None
        if self._teacher is not None and self._config.distillation > 0:
            after_BTN = self._teacher(items_BT)
            # What the teacher says after an item is about the next one; about the first it says nothing.
            teacher_PN = torch.nn.functional.pad(after_BTN[:, :-1], (0, 0, 1, 0))[real_BT]
        return self._loss(
            states_BTLH[real_BT],
            items_BT[real_BT],
            self._model.get_output_embeddings().weight,
            teacher_PN,
            self._config.distillation,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = [p for p in self._model.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in self._model.parameters() if p.requires_grad and p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self._config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self._config.learning_rate, betas=(0.9, 0.98), fused=True)

    def _keep_if_best(self, state: _State, ndcg: float) -> None:
        if ndcg > state.best_ndcg:
            state.best_ndcg, state.best_epoch, state.stale = ndcg, state.epoch, 0
            _write_whole(self._folder / "best.safetensors", lambda path: save_file(_unique_weights(self._model), path))
        else:
            state.stale += 1

    def _checkpoint(self, state: _State, optimizer: torch.optim.Optimizer) -> None:
        content = {
            "model": _unique_weights(self._model),
            "optimizer": optimizer.state_dict(),
            "state": json.dumps(vars(state)),
        }
        _write_whole(self._folder / "last.pt", lambda path: torch.save(content, path))

    def _resume(self, optimizer: torch.optim.Optimizer) -> _State:
        path = self._folder / "last.pt"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            return _State()
        content = torch.load(path, weights_only=True, map_location=self._device)
        self._model.load_state_dict(content["model"], strict=False)
        optimizer.load_state_dict(content["optimizer"])
        return _State(**json.loads(content["state"]))


def _unique_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's tensors, each storage once: safetensors refuses tied weights."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            weights[name] = tensor.contiguous()
    return weights


def _drop_items(pieces: list[NDArray[np.int32]], share: float, rng: np.random.Generator) -> list[NDArray[np.int32]]:
    if share == 0:
        return pieces
    kept = [piece[rng.random(len(piece)) >= share] for piece in pieces]
    return [piece for piece in kept if len(piece) > 1]


def _warmup_then_cosine(done: float, warmup_share: float) -> float:
    if done < warmup_share:
        return max(done / warmup_share, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup_share) / (1 - warmup_share))))


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside, then rename: a kill leaves the old file or the new one."""
    staging = path.with_suffix(".part")
    write(staging)
    os.replace(staging, path)
