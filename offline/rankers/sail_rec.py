"""Training of SAILRec (arXiv:2606.04514).

    1. a factorization of the judged samples, which stays as it is from here on   (offline.rankers.aligned_factors)
    2. users' profiles are voted, and both kinds of soft tokens drawn to meaning   (offline.rankers.semantic_warm_up)
    3. the language model learns to judge with the tokens in place, and both mappings with it, attention being steered
       (here)

A language model that was built from a config knows no words. It learns to judge by titles before all else, so that
there is a meaning to draw tokens to; one that knows words starts with the second step, as in the paper.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_store.errors import TesseraError
from model_store.rankers.depth_pattern import DepthPatternConfig
from model_store.rankers.factor_tables import FactorTables
from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.sail_rec import TEMPLATES, SailRecConfig, SailRecRanker
from model_store.rankers.text_vectors import title_texts
from offline.rankers.aligned_factors import AlignmentConfig, factor_scorer, train_factors
from offline.rankers.attention_shares import attention_shares
from offline.rankers.evaluate_ranker import Scorer
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import JudgementLoss, validation_score
from offline.rankers.label_codebooks import LABELLED_BY, read_codebooks
from offline.rankers.profile_votes import vote
from offline.rankers.ranker_language_model import RankerLanguageModel, RankerLanguageModelConfig
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from offline.rankers.ranking_data import RankingData
from offline.rankers.sella_rec import judging_language_model
from offline.rankers.semantic_warm_up import ItemAlignment, UserAlignment, WarmUpConfig, warm_up_items, warm_up_users
from offline.rankers.text_tuning import TextTuningConfig, copied, tune_on_text

_TEXT_FIRST = ("auto", "always", "never")


@dataclass(frozen=True, kw_only=True)
class FactorizationConfig(AlignmentConfig):
    """Settings of the first step: plain factorization."""

    weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight:
            raise TesseraError("recipe: factorization.weight must be 0: tokens are aligned here, vectors are not")


@dataclass(frozen=True, kw_only=True)
class MappingConfig:
    """Sizes of the two mappings."""

    width: int = 512
    """Of the Q-Former."""
    blocks: int = 2
    heads: int = 8
    liked: int = 10
    """Newest liked items that the Q-Former reads; 0 for the user's vector alone."""
    item_width: int = 1024

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.heads, self.item_width) < 1 or self.liked < 0:
            raise TesseraError("recipe: mapping has a size below 1")
        if self.width % self.heads:
            raise TesseraError(f"recipe: mapping.width {self.width} is not divisible by mapping.heads {self.heads}")


@dataclass(frozen=True, kw_only=True)
class JudgingConfig(FitConfig):
    """Settings of the third step. Chosen for a pretrained model: rates 2e-4 and 1e-4, batch 128, 1 epoch."""

    epochs: int = 2
    validations: int = 2
    language_model_rate: float = 1e-4
    """Learning rate of the language model's adapters (of all of a scratch model); the other is the mappings'."""
    train_language_model: bool = True
    min_history: int = 2
    """Samples with fewer liked items before them are left out."""
    alignment_weight: float = 0.0
    """Of the warm-ups' losses beside the answer's."""


@dataclass(frozen=True, kw_only=True)
class SailRecRecipe(RankerRecipe):
    """Settings of every step."""

    question: JudgementConfig = field(default_factory=JudgementConfig)
    language_model: RankerLanguageModelConfig = field(default_factory=RankerLanguageModelConfig)
    text_first: str = "auto"
    """Whether the language model first learns to judge by titles alone: always, never, or `auto` for scratch models."""
    text: TextTuningConfig = field(default_factory=TextTuningConfig)
    factorization: FactorizationConfig = field(default_factory=FactorizationConfig)
    codebooks: str = "movies"
    """`movies`, `catalog` for what the catalogue itself says, or a TOML file."""
    labelled_by: str = "categories"
    """What labels items: their categories, or `language-model`, which has to know words."""
    mapping: MappingConfig = field(default_factory=MappingConfig)
    warm_up: WarmUpConfig = field(default_factory=WarmUpConfig)
    steering: DepthPatternConfig = field(default_factory=DepthPatternConfig)
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    attention_prompts: int = 256
    """Validation samples whose attention is measured when training is over; 0 for none."""

    def __post_init__(self) -> None:
        for name, known in (("text_first", _TEXT_FIRST), ("labelled_by", LABELLED_BY)):
            if getattr(self, name) not in known:
                raise TesseraError(f"recipe: {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")


def train_sail_rec(recipe: SailRecRecipe, data: RankingData, device: torch.device | str) -> TrainedRanker:
    """Train all steps.

    Returns:
        The ranker; and as baselines the factorization and, where it came first, the language model that judges by
        titles alone.
    """
    seed = recipe.seed
    nothing = torch.zeros(len(data.catalog), 1)
    factors = train_factors(data, nothing, recipe.factorization, seed, device, "factorization")
    baselines: dict[str, Scorer] = {"mf": factor_scorer(factors.tables)}
    reports: dict[str, Any] = {"factorization": factors.report}
    language_model = judging_language_model(recipe.language_model, recipe.question, data, device, seed, TEMPLATES)
    if recipe.text_first == "always" or (recipe.text_first == "auto" and recipe.language_model.is_scratch):
        text_only, reports["text"] = tune_on_text(language_model, recipe.question, data, recipe.text, seed)
        baselines["text-only"] = copied(text_only).rank
    ranker = untrained_ranker(recipe, data, language_model, factors.tables).to(device)
    users, items, reports["profiles"] = _alignments(recipe, data, ranker)
    if recipe.warm_up.users:
        reports["user_alignment"] = warm_up_users(ranker, users, recipe.warm_up, seed)
    if recipe.warm_up.items:
        reports["item_alignment"] = warm_up_items(ranker, items, recipe.warm_up, seed)
    reports["judging"] = _judge(recipe, data, language_model, ranker, users, items)
    language_model.merge()
    if recipe.attention_prompts:
        reports["attention"] = attention_shares(ranker, data, "valid", most=recipe.attention_prompts)
    return TrainedRanker(ranker, reports, baselines)


def untrained_ranker(
    recipe: SailRecRecipe, data: RankingData, language_model: RankerLanguageModel, tables: FactorTables
) -> SailRecRanker:
    """The ranker before its warm-ups; its tables are those of the factorization, and frozen."""
    torch.manual_seed(recipe.seed)
    sizes = recipe.mapping
    ranker = SailRecRanker(
        SailRecConfig(
            users=len(data.user_keys),
            items=len(data.catalog),
            size=recipe.factorization.size,
            width=sizes.width,
            blocks=sizes.blocks,
            heads=sizes.heads,
            liked=sizes.liked,
            item_width=sizes.item_width,
            steering=recipe.steering,
            question=recipe.question,
        ),
        language_model.soft,
        data.catalog,
    )
    ranker.tables.load_state_dict(tables.state_dict())
    ranker.tables.requires_grad_(False)
    return ranker


class SteeredJudgementLoss:
    """The answer's cross-entropy, and with a weight the warm-ups' losses of the same users and items.

    Args:
        judgement: the former.
        users, items: the latter.
        weight: of the latter.
        sample_users, sample_items: of every sample.
    """

    def __init__(
        self,
        judgement: JudgementLoss,
        users: UserAlignment,
        items: ItemAlignment,
        weight: float,
        sample_users: NDArray[np.int64],
        sample_items: NDArray[np.int32],
    ) -> None:
        self._judgement, self._users, self._items, self._weight = judgement, users, items, weight
        self._sample_users, self._sample_items = sample_users, sample_items

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """The mean loss of some samples."""
        answer = self._judgement(rows)
        if not self._weight:
            return answer
        items = np.unique(self._sample_items[rows]).astype(np.int64)
        aligned = self._users.loss(np.unique(self._sample_users[rows])) + self._items.loss(items)
        return answer + self._weight * aligned


def _alignments(
    recipe: SailRecRecipe, data: RankingData, ranker: SailRecRanker
) -> tuple[UserAlignment, ItemAlignment, dict[str, Any]]:
    """What tokens are drawn to, fixed before the language model is trained; and how the votes went."""
    codebooks = read_codebooks(recipe.codebooks, data.catalog, recipe.labelled_by, ranker.language_model)
    profiles = [vote(data, codebook) for codebook in codebooks]
    users = UserAlignment(ranker, data, codebooks, profiles, recipe.warm_up.temperature)
    titles = title_texts(data.catalog, range(len(data.catalog)))
    report = {}
    for codebook, one in zip(codebooks, profiles, strict=True):
        counts = np.bincount(one.labels[~one.by_default], minlength=len(codebook.labels)).tolist()
        report[codebook.name] = {
            "users": dict(zip(codebook.labels, counts, strict=True)),
            "by_default": int(one.by_default.sum()),
        }
    return users, ItemAlignment(ranker, titles, recipe.warm_up.temperature), report


def _judge(
    recipe: SailRecRecipe,
    data: RankingData,
    language_model: RankerLanguageModel,
    ranker: SailRecRanker,
    users: UserAlignment,
    items: ItemAlignment,
) -> dict[str, Any]:
    config, model = recipe.judging, language_model.soft.model
    samples = data.samples["train"].with_history(config.min_history)
    answers = JudgementLoss(ranker, data, samples, "answer")
    loss = SteeredJudgementLoss(answers, users, items, config.alignment_weight, samples.users, samples.items)

    def step(parameters: list[nn.Parameter]) -> dict[str, Any]:
        def training() -> None:
            ranker.train()
            if parameters:
                model.train()

        return fit(
            "steered judging",
            len(samples),
            loss,
            [Trained(ranker.parameters()), Trained(parameters, config.language_model_rate)],
            config,
            recipe.seed,
            validate=lambda: validation_score(ranker.rank, data, config.validation_rows, recipe.seed),
            training=training,
        )

    if not config.train_language_model:
        report = step([])
    else:
        with language_model.trainable() as parameters:
            report = step(parameters)
    ranker.eval()
    return report
