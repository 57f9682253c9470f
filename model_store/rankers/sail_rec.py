"""SAILRec (arXiv:2606.04514): soft tokens aligned with meaning on both sides, and attention steered by depth.

The user has three tokens, one for each codebook that profiles were taken from, made from a frozen matrix factorization
by a small Q-Former; the item has one. See `offline.rankers.sail_rec` for how each comes about.

Shapes: B requests, D vector size of the factorization, H hidden size, S slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model_store.catalog import Catalog
from model_store.rankers.attention_steering import AttentionSteering, model_layers
from model_store.rankers.depth_pattern import DepthPatternConfig, depth_biases
from model_store.rankers.factor_tables import FactorTables
from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.judging_ranker import JudgingRanker
from model_store.rankers.ranker import RankRequest
from model_store.rankers.soft_prompt import Slot, SoftPrompt, slot_keys
from model_store.rankers.soft_prompt_model import SoftPromptModel
from model_store.rankers.user_query_former import UserQueryFormer, scaled_norm

CODEBOOKS = 3
USER_KINDS = tuple(f"user-{number}" for number in range(CODEBOOKS))
ITEM = "item"
OF_USER, OF_ITEM = " Features of the user:", " with the feature"
TEMPLATES = (OF_USER, OF_ITEM)
"""What is said beside `judgement.TEMPLATES`."""


@dataclass(frozen=True, kw_only=True)
class SailRecConfig:
    """What a SAILRec ranker is made of."""

    users: int
    items: int
    """Of the tables; a catalogue that has grown has more."""
    size: int = 256
    """D, of the factorization."""
    width: int = 512
    """Of the Q-Former."""
    blocks: int = 2
    heads: int = 8
    liked: int = 10
    """Newest liked items that the Q-Former reads beside the user's vector; 0 for the user's alone."""
    item_width: int = 1024
    """Of the item projection's hidden layer."""
    steering: DepthPatternConfig = field(default_factory=DepthPatternConfig)
    question: JudgementConfig = field(default_factory=JudgementConfig)


class SailRecRanker(JudgingRanker):
    """Judges by titles and four soft tokens, attending to them by depth. New items have the mean item vector."""

    kind = "sail-rec"
    config_type = SailRecConfig
    config: SailRecConfig

    def __init__(self, config: SailRecConfig, language_model: SoftPromptModel, catalog: Catalog) -> None:
        model = language_model.model
        steering = AttentionSteering(model, depth_biases(model_layers(model), config.steering))
        steered = SoftPromptModel(model, language_model.tokenizer, steering)
        super().__init__(config, steered, catalog)
        self.steering = steering
        hidden, norm = steered.hidden_size, steered.mean_norm
        self.tables = FactorTables(config.users, config.items, config.size)
        self.user_mapping = UserQueryFormer(
            config.size, hidden, CODEBOOKS, config.width, config.blocks, config.heads, norm
        )
        self.item_mapping = nn.Sequential(
            nn.Linear(config.size, config.item_width),
            nn.GELU(),
            nn.Linear(config.item_width, hidden),
            scaled_norm(hidden, norm),
        )

    def user_part(self, request: RankRequest, row: int) -> SoftPrompt:
        words = self.judgement.words
        slots = SoftPrompt(tuple(Slot(kind, row) for kind in USER_KINDS))
        return self.judgement.user(request, SoftPrompt.of(words(OF_USER), slots, words(".")))

    def candidate_part(self, request: RankRequest, row: int, item: int) -> SoftPrompt:
        return self.judgement.item(item, SoftPrompt.of(self.judgement.words(OF_ITEM), Slot(ITEM, item)))

    def soft_tokens(self, requests: Sequence[RankRequest], prompts: Sequence[SoftPrompt]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if len(rows := slot_keys(prompts, USER_KINDS[0])):
            once, where = torch.unique(rows, return_inverse=True)
            tokens_SKH = self.user_tokens([requests[row] for row in once.tolist()])[where.to(self._device)]
            found |= {kind: tokens_SKH[:, number] for number, kind in enumerate(USER_KINDS)}
        if len(items := slot_keys(prompts, ITEM)):
            found[ITEM] = self.item_tokens(items)
        return found

    def user_tokens(self, requests: Sequence[RankRequest]) -> Tensor:
        """One token for each codebook, [B, 3, H]: of the user's vector and the newest items of the history."""
        rows = self.tables.rows_of([request.user_key for request in requests])
        users_BD = self.tables.user_vectors(rows)
        newest = [
            torch.from_numpy(request.history[max(len(request.history) - self.config.liked, 0) :].astype(np.int64))
            for request in requests
        ]
        items_BR = pad_sequence(newest, batch_first=True).to(self._device)
        lengths_B = torch.tensor([len(items) for items in newest], device=self._device)
        liked_BRD = self.tables.item_vectors(items_BR.flatten()).view(*items_BR.shape, self.config.size)
        # The user's own row is there in any case.
        real_BR = torch.arange(items_BR.shape[1] + 1, device=self._device) <= lengths_B[:, None]
        tokens: Tensor = self.user_mapping(torch.cat([users_BD[:, None], liked_BRD], dim=1), real_BR)
        return tokens

    def item_tokens(self, items_S: Tensor) -> Tensor:
        """Of items by their index, [S, H]."""
        tokens: Tensor = self.item_mapping(self.tables.item_vectors(items_S.to(self._device)))
        return tokens

    @property
    def _device(self) -> torch.device:
        return self.tables.items.weight.device
