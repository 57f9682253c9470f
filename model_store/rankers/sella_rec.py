"""SeLLa-Rec (arXiv:2504.10107): three soft tokens by a hybrid projection, and a Yes or No.

`user` and `item` are vectors of a matrix factorization that was aligned to the language model while it was trained,
projected by one network; `warm` is what the language model makes of the item's title, by another. See
`offline.rankers.sella_rec` for how each comes about.

Shapes: N items, D vector size of the factorization, H hidden size, S slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model_store.catalog import Catalog
from model_store.rankers.factor_tables import FactorTables
from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.judging_ranker import JudgingRanker
from model_store.rankers.ranker import RankRequest
from model_store.rankers.soft_prompt import Slot, SoftPrompt, slot_keys
from model_store.rankers.soft_prompt_model import SoftPromptModel
from model_store.rankers.text_vectors import text_vectors, title_texts

USER, ITEM, WARM = "user", "item", "warm"
TOKENS = (USER, ITEM, WARM)
OF_USER, OF_ITEM, AND = " Features of the user:", " with the features", ","
TEMPLATES = (OF_USER, OF_ITEM, AND)
"""What is said beside `judgement.TEMPLATES`."""


@dataclass(frozen=True, kw_only=True)
class SellaRecConfig:
    """What a SeLLa-Rec ranker is made of."""

    users: int
    items: int
    """Of the tables; a catalogue that has grown has more."""
    size: int = 256
    """D, of the factorization."""
    width: int = 1024
    """Of the projector's hidden layer."""
    tokens: tuple[str, ...] = TOKENS
    """Which of the three there are."""
    match_norm: bool = True
    """Whether soft tokens start as long as the model's words are. The projector was trained to hit *last hidden
    states*, whose length is another; the paper's code puts them in as they are."""
    question: JudgementConfig = field(default_factory=JudgementConfig)


class SellaRecRanker(JudgingRanker):
    """Judges by titles and three soft tokens."""

    kind = "sella-rec"
    config_type = SellaRecConfig
    config: SellaRecConfig

    def __init__(self, config: SellaRecConfig, language_model: SoftPromptModel, catalog: Catalog) -> None:
        super().__init__(config, language_model, catalog)
        hidden = language_model.hidden_size
        self.tables = FactorTables(config.users, config.items, config.size)
        self.title_vectors = nn.Embedding(config.items, hidden)
        self.projector = projector(config.size, config.width, hidden)
        self.warm = nn.Linear(hidden, hidden)
        self.lengths = nn.ParameterDict(
            {kind: nn.Parameter(torch.tensor(language_model.mean_norm)) for kind in TOKENS if config.match_norm}
        )
        self.register_buffer("_added_NH", torch.empty(0, hidden), persistent=False)
        self._added_NH: Tensor

    def user_part(self, request: RankRequest, row: int) -> SoftPrompt:
        words = self.judgement.words
        if USER not in self.config.tokens:
            return self.judgement.user(request)
        return self.judgement.user(request, SoftPrompt.of(words(OF_USER), Slot(USER, row), words(".")))

    def candidate_part(self, request: RankRequest, row: int, item: int) -> SoftPrompt:
        slots = [Slot(kind, item) for kind in (ITEM, WARM) if kind in self.config.tokens]
        if not slots:
            return self.judgement.item(item)
        words = self.judgement.words
        both = (slots[0], words(AND), slots[1]) if len(slots) > 1 else (slots[0],)
        return self.judgement.item(item, SoftPrompt.of(words(OF_ITEM), *both))

    def soft_tokens(self, requests: Sequence[RankRequest], prompts: Sequence[SoftPrompt]) -> dict[str, Tensor]:
        device = self.title_vectors.weight.device
        keys = {kind: slot_keys(prompts, kind).to(device) for kind in self.config.tokens}
        found: dict[str, Tensor] = {}
        for kind, of in keys.items():
            if kind == USER:
                rows = self.tables.rows_of([request.user_key for request in requests])
                vectors = self.projector(self.tables.user_vectors(rows[of]))
            elif kind == ITEM:
                vectors = self.projector(self.tables.item_vectors(of))
            else:
                vectors = self.warm(self._titles_of(of))
            if self.config.match_norm:
                vectors = nn.functional.normalize(vectors, dim=-1) * self.lengths[kind]
            found[kind] = vectors
        return found

    def adopt(self, catalog: Catalog) -> None:
        """New items have the mean item vector, and a title vector of their own: what it is there for."""
        super().adopt(catalog)
        new = range(self.config.items, len(catalog))
        self._added_NH = text_vectors(self.language_model, title_texts(catalog, new)).to(self._added_NH.device)

    def _titles_of(self, items_S: Tensor) -> Tensor:
        old = self.config.items
        own = self.title_vectors(items_S.clamp(max=old - 1))
        if not len(self._added_NH):
            return own  # type: ignore[no-any-return]
        return torch.where((items_S < old)[:, None], own, self._added_NH[(items_S - old).clamp(min=0)])


def projector(size: int, width: int, hidden: int) -> nn.Sequential:
    """The network from vectors of the factorization to the language model: W2 gelu(W1 x)."""
    return nn.Sequential(nn.Linear(size, width), nn.GELU(), nn.Linear(width, hidden))
