"""Teach a language model to judge items by their titles: TALLRec (arXiv:2305.00447), and SeLLa-Rec's first step."""

from dataclasses import dataclass
from typing import Any

import torch

from model_store.errors import TesseraError
from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.text_only import TextOnlyConfig, TextOnlyRanker
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import JudgementLoss, validation_score
from offline.rankers.ranker_language_model import RankerLanguageModel
from offline.rankers.ranking_data import RankingData


@dataclass(frozen=True, kw_only=True)
class TextTuningConfig(FitConfig):
    """Settings of the text-only step. Published: rate 8e-5, batch 128, 1 epoch, for a model of 7 billion parameters."""

    epochs: int = 2
    validations: int = 2
    loss_on: str = "answer"
    """`answer`, or `prompt` for every word of the prompt too, as SeLLa-Rec's code does."""
    min_history: int = 2
    """Samples with fewer liked items before them are left out, as SeLLa-Rec's code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_on not in ("answer", "prompt"):
            raise TesseraError(f"recipe: loss_on must be answer or prompt, not {self.loss_on!r}")


def copied(ranker: TextOnlyRanker) -> TextOnlyRanker:
    """As it is now, where its language model is trained on."""
    return TextOnlyRanker(ranker.config, ranker.language_model.copied(), ranker.catalog).eval()


def tune_on_text(
    language_model: RankerLanguageModel,
    question: JudgementConfig,
    data: RankingData,
    config: TextTuningConfig,
    seed: int,
) -> tuple[TextOnlyRanker, dict[str, Any]]:
    """Train the language model in place; returns a ranker around it, and what happened."""
    model = language_model.soft
    ranker = TextOnlyRanker(TextOnlyConfig(question=question), model, data.catalog)
    samples = data.samples["train"].with_history(config.min_history)
    torch.manual_seed(seed)
    with language_model.trainable() as parameters:
        report = fit(
            "language model",
            len(samples),
            JudgementLoss(ranker, data, samples, config.loss_on),
            [Trained(parameters)],
            config,
            seed,
            validate=lambda: validation_score(ranker.rank, data, config.validation_rows, seed),
            training=model.model.train,
        )
    return ranker.eval(), report
