"""Trains the cascaded codebooks: a k-means start, revival of entries nobody takes, and an end on a plateau.

Shapes: N items, D input size, H text size, L levels, C entries a level.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from offline.codes.cascaded_codebooks import CascadedCodebooks, Losses
from offline.codes.config import CascadeConfig, CodesConfig
from offline.codes.residual_kmeans import residual_kmeans
from offline.progress import progress

_CUT = 0.1
"""What the first plateau does to the learning rate."""
_WORTH_WHILE = 1e-3
"""A loss must fall by this share of itself to count as better."""


def train_cascade(
    vectors_ND: NDArray[np.float32],
    text_NH: NDArray[np.float32] | None,
    known_N: NDArray[np.bool_],
    config: CodesConfig,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[CascadedCodebooks, dict[str, float]]:
    """Train a cascade; returns it in eval mode on the CPU, and the last epoch's losses and number.

    Args:
        vectors_ND: what is quantized.
        text_NH: the items' text to align to; not used where `config.alignment` is `none`.
        known_N: items with training events; only these train it.
        config: settings.
        seed: of initialisation, batches and revivals.
        device: where it trains.
    """
    torch.manual_seed(seed)
    batches = torch.Generator().manual_seed(seed)
    known = torch.from_numpy(vectors_ND[known_N]).to(device)
    text = None
    if text_NH is not None and config.aligned:
        text = alignment_targets(torch.from_numpy(text_NH[known_N]).to(device))
    model = CascadedCodebooks(
        known.shape[1], config.entries_for(len(known)), None if text is None else text.shape[1], config.cascade
    ).to(device)
    model.standardise_by(known)
    inputs = model.standardised(known)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.cascade.learning_rate, weight_decay=config.cascade.weight_decay, fused=True
    )
    if config.cascade.encoder == "mlp":
        for _ in range(config.cascade.warmup_epochs):
            for rows in _shuffled(inputs, config.cascade, batches):
                _step(optimizer, model.reconstruction_loss(inputs[rows]))
    start_from_clusters(model, inputs, config.iterations, seed)

    plateau = Plateau(config.cascade.patience)
    record: dict[str, float] = {}
    with progress("cascaded codebooks", config.cascade.epochs, "epochs") as advance:
        while not plateau.over and plateau.epochs < config.cascade.epochs:
            sums = torch.zeros(len(Losses._fields), device=device)
            taken_LC = torch.zeros(model.codebooks_LCZ.shape[:2], dtype=torch.bool, device=device)
            for rows in _shuffled(inputs, config.cascade, batches):
                targets = None if text is None else text[rows]
                losses, codes_BL = model.losses(inputs[rows], targets, config.alignment)
                _step(optimizer, model.weighted(losses))
                taken_LC.scatter_(1, codes_BL.T, True)
                sums += torch.stack(losses).detach() * len(rows)
            means = Losses(*(sums / len(inputs)))
            revived = revive(model, optimizer, inputs, ~taken_LC, batches)
            total = model.weighted(means).item()
            if plateau.first_after(total):
                for group in optimizer.param_groups:
                    group["lr"] *= _CUT
            record = {name: round(value.item(), 5) for name, value in means._asdict().items()} | {"revived": revived}
            advance(1, f"loss {total:.3f}")
    return model.cpu().eval(), {**record, "epochs": plateau.epochs}


def alignment_targets(text_NH: Tensor) -> Tensor:
    """Text as something to align to: centred, since all texts of a model point much the same way, and unit length."""
    return functional.normalize(text_NH - text_NH.mean(0), dim=-1)


@dataclass
class Plateau:
    """Counts epochs without a better loss; `over` after the second stretch of `patience` of them."""

    patience: int
    epochs: int = 0
    _best: float = field(default=float("inf"), init=False)
    _waited: int = field(default=0, init=False)
    _found: int = field(default=0, init=False)

    def first_after(self, loss: float) -> bool:
        """Take in an epoch's loss; whether the first plateau ends with it."""
        self.epochs += 1
        self._waited += 1
        if loss < self._best * (1 - _WORTH_WHILE):
            self._best, self._waited = loss, 0
        elif self._waited == self.patience:
            self._found, self._waited = self._found + 1, 0
            return self._found == 1
        return False

    @property
    def over(self) -> bool:
        """Whether training should end."""
        return self._found == 2


@torch.no_grad()
def start_from_clusters(model: CascadedCodebooks, inputs_ND: Tensor, iterations: int, seed: int) -> None:
    """Put each level's entries at the centres of what the levels before leave of the encoded inputs."""
    encoded = model.encoder(inputs_ND).cpu().numpy()
    centres = residual_kmeans(encoded, model.codebooks_LCZ.shape[1], iterations, seed)
    model.codebooks_LCZ.copy_(torch.from_numpy(centres))


@torch.no_grad()
def revive(
    model: CascadedCodebooks,
    optimizer: torch.optim.Optimizer,
    inputs_ND: Tensor,
    dead_LC: Tensor,
    generator: torch.Generator,
) -> int:
    """Restart dead entries at what enters their level of items it quantizes badly; returns how many there were."""
    if not dead_LC.any():
        return 0
    quantized = model.quantize(model.encoder(inputs_ND))
    error_NL = (quantized.residual_BLZ - quantized.chosen_BLZ).square().sum(-1).cpu()
    moments = optimizer.state[model.codebooks_LCZ]
    for level, dead_C in enumerate(dead_LC):
        entries = dead_C.nonzero()[:, 0]
        if len(entries):
            # A little for everyone: there must be something to draw where nothing is left over.
            items = torch.multinomial(error_NL[:, level] + 1e-6, len(entries), replacement=True, generator=generator)
            model.codebooks_LCZ[level, entries] = quantized.residual_BLZ[items.to(inputs_ND.device), level]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name][level, entries] = 0
    return int(dead_LC.sum())


def _shuffled(inputs_ND: Tensor, config: CascadeConfig, generator: torch.Generator) -> list[Tensor]:
    """Row numbers of an epoch's batches."""
    order = torch.randperm(len(inputs_ND), generator=generator).to(inputs_ND.device)
    return list(torch.split(order, config.batch))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
