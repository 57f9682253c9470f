"""What rankers that ask the Yes/No question have in common."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from model_store.catalog import Catalog
from model_store.rankers.judgement import Judgement
from model_store.rankers.ranker import Ranker
from model_store.rankers.soft_prompt import SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel


class JudgingRanker(Ranker):
    """Asks the question of `judgement`; its settings have a `question`.

    Attributes:
        judgement: writes the question and reads the answer.
    """

    def __init__(self, config: Any, language_model: SoftPromptModel, catalog: Catalog) -> None:
        super().__init__(config, language_model, catalog)
        self.judgement = Judgement(config.question, language_model, catalog)

    def read_out(self, before_MH: Tensor, hidden_MSH: Tensor, parts: Sequence[SoftPrompt]) -> Tensor:
        return self.judgement.read_out(hidden_MSH, parts)

    def adopt(self, catalog: Catalog) -> None:
        super().adopt(catalog)
        self.judgement = Judgement(self.config.question, self.language_model, catalog)
