"""SAILRec's warm-ups: soft tokens are drawn to what they are to mean, before a language model reads them.

A user's token for a codebook is drawn to the label that was voted, against the codebook's other labels (other users of
a batch often have the same label, and would be false negatives). An item's token is drawn to its title, against the
batch's other titles.

Shapes: B users or items of a batch, K codebooks, C labels, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.errors import TesseraError
from model_store.rankers.ranker import RankRequest
from model_store.rankers.sail_rec import SailRecRanker
from model_store.rankers.text_vectors import text_vectors
from offline.rankers.aligned_factors import alignment_loss
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.label_codebooks import Codebook
from offline.rankers.profile_votes import Profiles
from offline.rankers.ranking_data import RankingData

_NOBODY = -100


@dataclass(frozen=True, kw_only=True)
class WarmUpConfig(FitConfig):
    """Settings of both warm-ups."""

    epochs: int = 30
    batch: int = 256
    at_once: int = 256
    patience: int = 3
    users: bool = True
    """Whether user tokens are aligned."""
    items: bool = True
    """Whether item tokens are aligned."""
    temperature: float = 0.1
    held_out: float = 0.1
    """Share of users and of items that validations are measured on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise TesseraError(f"recipe: warm_up.temperature must be above 0, not {self.temperature}")
        if not 0 < self.held_out < 1:
            raise TesseraError(f"recipe: warm_up.held_out must be between 0 and 1, not {self.held_out}")


class UserAlignment:
    """How far user tokens are from their profiles.

    Args:
        ranker: makes the tokens.
        data: whose training part the users' histories come from.
        codebooks, profiles: K; a user has no part where a profile is a default.
        temperature: of the contrast.
    """

    def __init__(
        self,
        ranker: SailRecRanker,
        data: RankingData,
        codebooks: Sequence[Codebook],
        profiles: Sequence[Profiles],
        temperature: float,
    ) -> None:
        self._ranker, self._temperature = ranker, temperature
        device = ranker.language_model.device
        self._labels = [
            functional.normalize(text_vectors(ranker.language_model, codebook.texts).to(device), dim=-1)
            for codebook in codebooks
        ]
        self._targets_UK = torch.from_numpy(
            np.stack([np.where(one.by_default, _NOBODY, one.labels) for one in profiles], axis=1)
        ).to(device)
        self._requests = _user_requests(data)
        self.users = np.flatnonzero((self._targets_UK != _NOBODY).any(1).cpu().numpy())
        """Who has a profile."""

    def loss(self, users: NDArray[np.int64]) -> Tensor:
        """The mean over codebooks of - log softmax of the cosine over the temperature, of users that have a profile."""
        tokens_BKH = functional.normalize(self._ranker.user_tokens([self._requests[user] for user in users]), dim=-1)
        targets_BK = self._targets_UK[torch.from_numpy(users).to(tokens_BKH.device)]
        losses = []
        for number, labels_CH in enumerate(self._labels):
            logits_BC = tokens_BKH[:, number] @ labels_CH.T / self._temperature
            targets_B = targets_BK[:, number]
            total = functional.cross_entropy(logits_BC, targets_B, ignore_index=_NOBODY, reduction="sum")
            losses.append(total / (targets_B != _NOBODY).sum().clamp(min=1))
        return torch.stack(losses).mean()


class ItemAlignment:
    """How far item tokens are from what the language model makes of titles.

    Args:
        ranker: makes the tokens.
        titles: of all items; items of the same title are no negatives of each other.
        temperature: of the contrast.
    """

    def __init__(self, ranker: SailRecRanker, titles: Sequence[str], temperature: float) -> None:
        self._ranker, self._temperature = ranker, temperature
        device = ranker.language_model.device
        self._titles_NH = text_vectors(ranker.language_model, titles).to(device)
        self._same = torch.from_numpy(np.unique(np.array(titles), return_inverse=True)[1]).to(device)
        self.items = np.arange(len(titles))

    def loss(self, items: NDArray[np.int64]) -> Tensor:
        """The mean of - log softmax of the cosine over the temperature."""
        chosen = torch.from_numpy(items).to(self._same.device)
        tokens_BH = self._ranker.item_tokens(chosen)
        return alignment_loss(tokens_BH, self._titles_NH[chosen], self._same[chosen], self._temperature, "infonce")


def warm_up_users(ranker: SailRecRanker, alignment: UserAlignment, config: WarmUpConfig, seed: int) -> dict[str, Any]:
    """Train the Q-Former, and nothing else, on profiles."""
    trained = Trained(ranker.user_mapping.parameters())
    return _warm_up("user alignment", alignment.users, alignment.loss, trained, config, seed)


def warm_up_items(ranker: SailRecRanker, alignment: ItemAlignment, config: WarmUpConfig, seed: int) -> dict[str, Any]:
    """Train the item projection, and nothing else, on titles."""
    trained = Trained(ranker.item_mapping.parameters())
    return _warm_up("item alignment", alignment.items, alignment.loss, trained, config, seed)


def _warm_up(
    what: str, every: NDArray[np.int64], loss: Any, trained: Trained, config: WarmUpConfig, seed: int
) -> dict[str, Any]:
    shuffled = np.random.default_rng(seed).permutation(every)
    held_out, others = np.split(shuffled, [max(1, round(config.held_out * len(every)))])
    if not len(others):
        raise TesseraError(f"{what}: {len(every)} to learn from; set warm_up.users or warm_up.items to false")
    return fit(
        what,
        len(others),
        lambda rows: loss(others[rows]),
        [trained],
        config,
        seed,
        validate=lambda: -float(loss(held_out)),
    )


def _user_requests(data: RankingData) -> list[RankRequest]:
    """Every user with all that the training part says was liked, oldest first."""
    samples = data.samples["train"]
    liked = np.flatnonzero(samples.labels)
    order = liked[np.argsort(samples.users[liked], kind="stable")]
    ends = np.searchsorted(samples.users[order], np.arange(len(data.user_keys)), side="right")
    histories = np.split(samples.items[order], ends[:-1])
    nothing = np.empty(0, np.int32)
    return [
        RankRequest(history=history, candidates=nothing, user_key=int(key))
        for history, key in zip(histories, data.user_keys, strict=True)
    ]
