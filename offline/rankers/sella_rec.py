"""Training of SeLLa-Rec (arXiv:2504.10107), in its three steps.

    1. the language model learns to judge items by titles alone             (offline.rankers.text_tuning)
    2. a factorization is aligned to what it makes of titles                (offline.rankers.aligned_factors)
    3. the factorization's vectors become soft tokens in the same question  (here)

In step 3 the projector starts from step 2's, and the language model stays as it is: the tables, the title vectors and
both projections are trained through it. What the paper's summaries and its code do differently is a setting each.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from model_store.rankers.judgement import TEMPLATES as QUESTION_TEMPLATES
from model_store.rankers.judgement import JudgementConfig, longest_question
from model_store.rankers.sella_rec import ITEM, USER, WARM, SellaRecConfig, SellaRecRanker
from model_store.rankers.sella_rec import TEMPLATES as SELLA_TEMPLATES
from model_store.rankers.text_vectors import text_vectors, title_texts
from offline.rankers.aligned_factors import AlignedFactors, AlignmentConfig, train_factors
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import JudgementLoss, validation_score
from offline.rankers.ranker_language_model import RankerLanguageModel, RankerLanguageModelConfig
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from offline.rankers.ranking_data import RankingData
from offline.rankers.text_tuning import TextTuningConfig, copied, tune_on_text

_WORDS_OF_TEMPLATES = 96
"""Tokens that all templates and soft tokens have together, at most."""


@dataclass(frozen=True, kw_only=True)
class InjectionConfig(FitConfig):
    """Settings of the third step. Published: rate 2e-4, batch 300, 1 epoch, no warm-up."""

    epochs: int = 2
    validations: int = 2
    warmup_share: float = 0.0
    loss_on: str = "answer"
    """`answer` or `prompt`, as in the first step."""
    warm_start: bool = True
    """Whether the projector starts from the second step's. The uploaded script leaves it off, its README has it on."""
    train_language_model: bool = False
    """Whether the language model's adapters (all of a scratch model) go on learning; the code has them frozen."""
    language_model_rate: float = 1e-4
    """Learning rate of that."""
    user_token: bool = True
    item_token: bool = True
    warm_token: bool = True
    match_norm: bool = True
    """Whether soft tokens start as long as words are; the code puts them in as they are."""


@dataclass(frozen=True, kw_only=True)
class SellaRecRecipe(RankerRecipe):
    """Settings of every step."""

    question: JudgementConfig = field(default_factory=JudgementConfig)
    language_model: RankerLanguageModelConfig = field(default_factory=RankerLanguageModelConfig)
    text: TextTuningConfig = field(default_factory=TextTuningConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    injection: InjectionConfig = field(default_factory=InjectionConfig)


def train_sella_rec(recipe: SellaRecRecipe, data: RankingData, device: torch.device | str) -> TrainedRanker:
    """Train all three steps.

    Returns:
        The ranker, and the first step's as the baseline that lacks nothing but soft tokens.
    """
    seed = recipe.seed
    language_model = judging_language_model(recipe.language_model, recipe.question, data, device, seed, SELLA_TEMPLATES)
    text_only, text_report = tune_on_text(language_model, recipe.question, data, recipe.text, seed)
    # As it is now, where the third step goes on with the language model.
    baseline = copied(text_only) if recipe.injection.train_language_model else text_only
    titles_NH = text_vectors(language_model.soft, title_texts(data.catalog, range(len(data.catalog))))
    factors = train_factors(data, titles_NH, recipe.alignment, seed, device)
    ranker, report = inject(recipe, data, language_model, factors, device)
    language_model.merge()
    reports = {"text": text_report, "alignment": factors.report, "injection": report}
    return TrainedRanker(ranker, reports, {"text-only": baseline.rank})


def judging_language_model(
    config: RankerLanguageModelConfig,
    question: JudgementConfig,
    data: RankingData,
    device: torch.device | str,
    seed: int,
    templates: tuple[str, ...] = (),
) -> RankerLanguageModel:
    """The language model of a ranker that asks questions; `templates` are words beside the question's own."""
    positions = longest_question(question, _WORDS_OF_TEMPLATES)
    return RankerLanguageModel(config, data.catalog, (*QUESTION_TEMPLATES, *templates), positions, device, seed)


def inject(
    recipe: SellaRecRecipe,
    data: RankingData,
    language_model: RankerLanguageModel,
    factors: AlignedFactors,
    device: torch.device | str,
) -> tuple[SellaRecRanker, dict[str, Any]]:
    """The third step: the ranker with its tokens in place, trained; and what happened."""
    config, seed, model = recipe.injection, recipe.seed, language_model.soft
    torch.manual_seed(seed)
    ranker = untrained_ranker(recipe, data, language_model, factors).to(device)
    samples = data.samples["train"].with_history(recipe.text.min_history)

    def step(parameters: list[nn.Parameter]) -> dict[str, Any]:
        def training() -> None:
            ranker.train()
            if parameters:
                model.model.train()

        return fit(
            "soft tokens",
            len(samples),
            JudgementLoss(ranker, data, samples, config.loss_on),
            [Trained(ranker.parameters()), Trained(parameters, config.language_model_rate)],
            config,
            seed,
            validate=lambda: validation_score(ranker.rank, data, config.validation_rows, seed),
            training=training,
        )

    if not config.train_language_model:
        return ranker.eval(), step([])
    with language_model.trainable() as parameters:
        report = step(parameters)
    return ranker.eval(), report


def untrained_ranker(
    recipe: SellaRecRecipe, data: RankingData, language_model: RankerLanguageModel, factors: AlignedFactors
) -> SellaRecRanker:
    """The ranker as the third step begins with it."""
    config = recipe.injection
    tokens = {USER: config.user_token, ITEM: config.item_token, WARM: config.warm_token}
    ranker = SellaRecRanker(
        SellaRecConfig(
            users=len(data.user_keys),
            items=len(data.catalog),
            size=recipe.alignment.size,
            width=recipe.alignment.width,
            tokens=tuple(kind for kind, there in tokens.items() if there),
            match_norm=config.match_norm,
            question=recipe.question,
        ),
        language_model.soft,
        data.catalog,
    )
    ranker.tables.load_state_dict(factors.tables.state_dict())
    with torch.no_grad():
        ranker.title_vectors.weight.copy_(factors.title_vectors)
    if config.warm_start:
        ranker.projector.load_state_dict(factors.projector.state_dict())
    return ranker
