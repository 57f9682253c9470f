"""Global contrast: the state that has read an item's code must tell the item's vectors from those of others.

The global contrast decompression task of EAGER-LLM (arXiv:2502.14735): the hidden state at the end of an answer,
through one linear projection a source, is pulled to the target's vector of that source and away from other items' by
InfoNCE; the sources are text and behaviour. The projections are thrown away after training. What we changed: there is
no end token between the items of a history, so the state is the one at the item's last code token, and every item of a
history is a target, not the last one alone; an item among the negatives that is the target does not count, which the
released code leaves in. `state = "start"` is ours: the state that the item's first token is predicted from, which has
not read the item.

Shapes: P targets, H hidden size, N items, D size of a source's vectors, M negatives.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_store.errors import TesseraError

STATES = ("end", "start")


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """Settings of the global contrast; without weights there is none."""

    text_weight: float = 0.0
    """Of the contrast against text vectors, beside 1 for the sequential loss."""
    behaviour_weight: float = 0.0
    """Of the contrast against the collaborative encoder's item vectors."""
    temperature: float = 0.1
    negatives: int = 2048
    """Items drawn for a batch, the same for all of its targets and for both sources."""
    state: str = "end"
    """`end`: the state that has read the target's code; `start`: the one that its first token is predicted from."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "behaviour_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise TesseraError(f"contrast.{name} must be a finite number of at least 0, not {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise TesseraError(f"contrast.temperature must be above 0, not {self.temperature}")
        if self.negatives < 1:
            raise TesseraError(f"contrast.negatives must be at least 1, not {self.negatives}")
        if self.state not in STATES:
            raise TesseraError(f"contrast.state must be one of {', '.join(STATES)}, not {self.state!r}")

    @property
    def wanted(self) -> bool:
        """Whether there is anything to contrast against."""
        return self.text_weight > 0 or self.behaviour_weight > 0


class GlobalContrast(nn.Module):
    """The contrast's loss, with the projections it learns.

    Args:
        hidden: H of the language model.
        text_ND: the items' text vectors.
        behaviour_ND: the items' behaviour vectors.
        config: settings.
        seed: of the projections' start.
        known_N: items with training events; the others have no behaviour vector and are left out of that contrast.
    """

    def __init__(
        self,
        hidden: int,
        text_ND: NDArray[np.float32],
        behaviour_ND: NDArray[np.float32],
        config: ContrastConfig,
        seed: int,
        known_N: NDArray[np.bool_],
    ) -> None:
        super().__init__()
        self.config, self._items = config, len(known_N)
        sources = {
            "text": (config.text_weight, text_ND, np.ones_like(known_N)),
            "behaviour": (config.behaviour_weight, behaviour_ND, known_N),
        }
        self._weights = {name: weight for name, (weight, _, _) in sources.items() if weight > 0}
        self.projections = nn.ModuleDict()
        generator = torch.Generator().manual_seed(seed)
        for name in self._weights:
            _, vectors_ND, counts_N = sources[name]
            projection = nn.Linear(hidden, vectors_ND.shape[1])
            nn.init.normal_(projection.weight, std=hidden**-0.5, generator=generator)
            nn.init.zeros_(projection.bias)
            self.projections[name] = projection
            # Constants, that no checkpoint needs to hold.
            unit_ND = functional.normalize(torch.from_numpy(vectors_ND).float(), dim=-1)
            self.register_buffer(f"{name}_ND", unit_ND, persistent=False)
            self.register_buffer(f"{name}_counts_N", torch.from_numpy(counts_N), persistent=False)

    def forward(self, states_PH: Tensor, items_P: Tensor) -> Tensor:
        """The weighted sum of the sources' mean losses; float32 []."""
        states = functional.normalize(states_PH.float(), dim=-1)
        total = states.new_zeros(())
        # From torch's own state, which training seeds by epoch. On the CPU, so that every device draws alike.
        drawn_M = torch.randperm(self._items)[: self.config.negatives].to(items_P.device)
        for name, weight in self._weights.items():
            vectors_ND, counts_N = self.get_buffer(f"{name}_ND"), self.get_buffer(f"{name}_counts_N")
            loss_P = self._loss(self.projections[name](states), vectors_ND, items_P, drawn_M, counts_N)
            target_P = counts_N[items_P]
            total = total + weight * (loss_P * target_P).sum() / target_P.sum().clamp(min=1)
        return total

    def _loss(
        self, projected_PD: Tensor, vectors_ND: Tensor, items_P: Tensor, drawn_M: Tensor, counts_N: Tensor
    ) -> Tensor:
        projected = functional.normalize(projected_PD, dim=-1) / self.config.temperature
        positive_P = (projected * vectors_ND[items_P]).sum(-1)
        negative_PM = projected @ vectors_ND[drawn_M].T
        no_negative_PM = (drawn_M[None, :] == items_P[:, None]) | ~counts_N[drawn_M][None, :]
        negative_PM = negative_PM.masked_fill(no_negative_PM, float("-inf"))
        return torch.cat([positive_P[:, None], negative_PM], dim=1).logsumexp(dim=1) - positive_P
