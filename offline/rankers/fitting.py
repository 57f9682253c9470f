"""The training loop that rankers share: steps over shuffled rows, validations, and the best of them kept."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.errors import TesseraError
from offline.progress import progress

Loss = Callable[[NDArray[np.int64]], Tensor]
"""The mean loss of some rows."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How one stage is trained. A stage has its own defaults."""

    epochs: int = 1
    batch: int = 64
    """Rows of a step."""
    at_once: int = 64
    """Rows that go through the model together; gradients are accumulated over a batch of more."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.01
    clip_norm: float = 1.0
    validations: int = 1
    """In each epoch."""
    patience: int = 3
    """Validations without a better result after which training stops."""
    validation_rows: int = 4000
    """Samples or lists of a validation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "at_once", "validations", "patience", "validation_rows"):
            if getattr(self, name) < 1:
                raise TesseraError(f"recipe: {name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Trained:
    """Parameters that share a learning rate.

    Attributes:
        parameters: those of them that need a gradient are trained.
        learning_rate: None for the stage's.
        weight_decay: None for the stage's.
    """

    parameters: Iterable[nn.Parameter]
    learning_rate: float | None = None
    weight_decay: float | None = None


def fit(
    what: str,
    rows: int,
    loss: Loss,
    trained: Sequence[Trained],
    config: FitConfig,
    seed: int,
    *,
    validate: Callable[[], float],
    training: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Train until the epochs are over or nothing gets better; the best validation's parameters are left in place.

    Args:
        what: shown as progress.
        rows: how many there are to train on.
        loss: of some of them, by number.
        trained: what is trained; everything else stays as it is.
        config: settings.
        seed: of the order of rows, and of whatever draws during the loss.
        validate: larger is better; called without gradients.
        training: puts modules in training mode, before a step that follows a validation.

    Returns:
        What happened: the best validation, the step it came after, and the curve.

    Raises:
        TesseraError: there is nothing to train on, or the loss is no number.
    """
    groups = [(group, [p for p in group.parameters if p.requires_grad]) for group in trained]
    parameters = [p for _, own in groups for p in own]
    if not rows or not parameters:
        raise TesseraError(f"{what}: nothing to train {'on' if parameters else ''}".rstrip())
    optimizer = torch.optim.AdamW(
        [
            {
                "params": own,
                "lr": group.learning_rate if group.learning_rate is not None else config.learning_rate,
                "weight_decay": group.weight_decay if group.weight_decay is not None else config.weight_decay,
            }
            for group, own in groups
            if own
        ],
        betas=(0.9, 0.95),
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = -(-rows // config.batch)
    total = steps * config.epochs
    ends = {round(steps * (number + 1) / config.validations) for number in range(config.validations)}
    best, best_step, stale, step = -np.inf, 0, 0, 0
    kept: list[Tensor] = [p.detach().clone() for p in parameters]
    curve: list[dict[str, float]] = []
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    with progress(what, total, "steps") as advance:
        for _ in range(config.epochs):
            shuffled = order.permutation(rows)
            losses: list[float] = []
            training()
            for number in range(1, steps + 1):
                chosen = shuffled[(number - 1) * config.batch : number * config.batch]
                losses.append(_gradients(what, loss, chosen, config.at_once, optimizer))
                nn.utils.clip_grad_norm_(parameters, config.clip_norm)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * _schedule(step / total, config.warmup_share)
                optimizer.step()
                step += 1
                if number in ends:
                    with torch.no_grad():
                        found = validate()
                    curve.append({"step": step, "loss": float(np.mean(losses)), "validation": found})
                    losses = []
                    stale += 1
                    if found > best:
                        best, best_step, stale = found, step, 0
                        kept = [p.detach().clone() for p in parameters]
                    training()
                advance(1, f"loss {curve[-1]['loss']:.3f}, best validation {best:.4f}" if curve else "")
                if stale >= config.patience:
                    break
            if stale >= config.patience:
                break
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return {"best_validation": float(best), "best_step": best_step, "steps": step, "curve": curve}


def _gradients(what: str, loss: Loss, rows: NDArray[np.int64], at_once: int, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        share = loss(some) * (len(some) / len(rows))
        share.backward()  # type: ignore[no-untyped-call]
        total += float(share.detach())
    if not np.isfinite(total):
        raise TesseraError(f"{what}: the loss is {total}; lower learning_rate")
    return total


def _schedule(done: float, warmup_share: float) -> float:
    if done < warmup_share:
        return max(done / warmup_share, 1e-3)
    return float(0.5 * (1 + np.cos(np.pi * min(1.0, (done - warmup_share) / max(1 - warmup_share, 1e-9)))))
