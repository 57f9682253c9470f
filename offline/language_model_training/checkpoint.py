"""Where a training run stands, on disk: what continues it after a kill, and its best weights.

    <folder>/last.pt            trained weights, optimizer and state after the last finished epoch
    <folder>/best.safetensors   trained weights of the best validation

Randomness needs no file: it is seeded by the epoch. The main process writes, every process reads.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_store.errors import TesseraError
from offline.processes import Processes


@dataclass
class TrainingState:
    """What a checkpoint holds besides tensors."""

    epoch: int = 0
    step: int = 0
    best_ndcg: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    processes: int = 1
    curve: list[dict[str, float]] = field(default_factory=list)


class Checkpoints:
    """The files of one run.

    Args:
        folder: where they are; made if missing.
        model: whose trained weights are kept.
        processes: of the run.
        beside: what is trained with the model and needed to go on, but not kept of the best validation.
    """

    def __init__(
        self, folder: Path, model: torch.nn.Module, processes: Processes, beside: torch.nn.Module | None = None
    ) -> None:
        self._folder, self._model, self._processes, self._beside = folder, model, processes, beside
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self, optimizer: torch.optim.Optimizer, device: torch.device) -> TrainingState:
        """Go back to the last finished epoch; a fresh state where there is none.

        Raises:
            TesseraError: the run was started with another number of processes, which share out its steps.
        """
        path = self._folder / "last.pt"
        if not path.exists():
            return TrainingState(processes=self._processes.count)
        content = torch.load(path, weights_only=True, map_location=device)
        state = TrainingState(**json.loads(content["state"]))
        if state.processes != self._processes.count:
            raise TesseraError(
                f"{path}: this run was begun by {state.processes} process(es) and cannot be continued by "
                f"{self._processes.count}; start as many again, or delete {self._folder} to begin anew"
            )
        self._model.load_state_dict(content["model"], strict=False)
        if self._beside is not None:
            self._beside.load_state_dict(content["beside"])
        optimizer.load_state_dict(content["optimizer"])
        return state

    def save(self, state: TrainingState, optimizer: torch.optim.Optimizer) -> None:
        """Keep an epoch that is finished."""
        if self._processes.is_main:
            content = {
                "model": trained_weights(self._model),
                "beside": {} if self._beside is None else self._beside.state_dict(),
                "optimizer": optimizer.state_dict(),
                "state": json.dumps(vars(state)),
            }
            _write_whole(self._folder / "last.pt", lambda path: torch.save(content, path))

    def keep_if_best(self, state: TrainingState, ndcg: float) -> None:
        """Keep the weights if they are the best so far; note in `state` whether they are."""
        if ndcg > state.best_ndcg:
            state.best_ndcg, state.best_epoch, state.stale = ndcg, state.epoch, 0
            if self._processes.is_main:
                weights = trained_weights(self._model)
                _write_whole(self._folder / "best.safetensors", lambda path: save_file(weights, path))
        else:
            state.stale += 1

    def load_best(self) -> None:
        """Put the best weights into the model, in every process."""
        self._processes.wait()
        self._model.load_state_dict(load_file(self._folder / "best.safetensors"), strict=False)


def trained_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's tensors that training changes, each storage once: safetensors refuses tied weights."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict().items():
        if name not in frozen and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            weights[name] = tensor.contiguous()
    return weights


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside, then rename: a kill leaves the old file or the new one."""
    staging = path.with_suffix(".part")
    write(staging)
    os.replace(staging, path)
