"""A language model that judges items by their titles alone: no soft tokens, the baseline of every other ranker.

Trained on answers it is TALLRec (arXiv:2305.00447).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from model_store.catalog import Catalog
from model_store.rankers.judgement import Judgement, JudgementConfig
from model_store.rankers.ranker import Ranker, RankRequest
from model_store.rankers.soft_prompt import SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel


@dataclass(frozen=True, kw_only=True)
class TextOnlyConfig:
    """What a text-only ranker is made of."""

    question: JudgementConfig = field(default_factory=JudgementConfig)


class TextOnlyRanker(Ranker):
    """Judges by titles."""

    kind = "text-only"
    config_type = TextOnlyConfig
    config: TextOnlyConfig

    def __init__(self, config: TextOnlyConfig, language_model: SoftPromptModel, catalog: Catalog) -> None:
        super().__init__(config, language_model, catalog)
        self.judgement = Judgement(config.question, language_model, catalog)

    def user_part(self, request: RankRequest, row: int) -> SoftPrompt:
        return self.judgement.user(request)

    def candidate_part(self, request: RankRequest, row: int, item: int) -> SoftPrompt:
        return self.judgement.item(item)

    def soft_tokens(self, requests: Sequence[RankRequest], prompts: Sequence[SoftPrompt]) -> dict[str, Tensor]:
        return {}

    def read_out(self, before_MH: Tensor, hidden_MSH: Tensor, parts: Sequence[SoftPrompt]) -> Tensor:
        return self.judgement.read_out(hidden_MSH, parts)

    def adopt(self, catalog: Catalog) -> None:
        super().adopt(catalog)
        self.judgement = Judgement(self.config.question, self.language_model, catalog)
