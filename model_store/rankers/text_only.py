"""A language model that judges items by their titles alone: no soft tokens, the baseline of every other ranker.

Trained on answers it is TALLRec (arXiv:2305.00447).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.judging_ranker import JudgingRanker
from model_store.rankers.ranker import RankRequest
from model_store.rankers.soft_prompt import SoftPrompt


@dataclass(frozen=True, kw_only=True)
class TextOnlyConfig:
    """What a text-only ranker is made of."""

    question: JudgementConfig = field(default_factory=JudgementConfig)


class TextOnlyRanker(JudgingRanker):
    """Judges by titles."""

    kind = "text-only"
    config_type = TextOnlyConfig
    config: TextOnlyConfig

    def user_part(self, request: RankRequest, row: int) -> SoftPrompt:
        return self.judgement.user(request)

    def candidate_part(self, request: RankRequest, row: int, item: int) -> SoftPrompt:
        return self.judgement.item(item)

    def soft_tokens(self, requests: Sequence[RankRequest], prompts: Sequence[SoftPrompt]) -> dict[str, Tensor]:
        return {}
