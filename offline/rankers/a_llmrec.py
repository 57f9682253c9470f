"""Training of A-LLMRec (arXiv:2404.11343).

    0. a collaborative encoder of any kind, then frozen                      (offline.collaborative.kinds)
    1. item and text autoencoders, whose latents are drawn together          (offline.rankers.matching)
    2. projectors of users and items into a frozen language model            (here, by offline.rankers.title_likelihood)

The language model stays as it comes. One built from a config knows no word, so it first learns to name items from the
same prompt without soft tokens; then it is frozen as well. What the paper's ablations leave out is a setting each.
"""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from model_store.collaborative.configs import DINConfig, EncoderConfig, SASRecConfig
from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.errors import TesseraError
from model_store.rankers.a_llmrec import (
    ITEM,
    JOINT,
    MEAN,
    SUM,
    TEMPLATES,
    TEXT,
    USER,
    ALLMRecConfig,
    ALLMRecRanker,
    longest_prompt,
)
from model_store.rankers.judgement import Judgement, JudgementConfig
from model_store.text_encoder import TextConfig
from offline.collaborative.kinds import train_encoder
from offline.rankers.encoder_scorer import encoder_scorer
from offline.rankers.fitting import FitConfig, Trained
from offline.rankers.matching import Matched, MatchingConfig, train_matching
from offline.rankers.next_item_rows import next_item_rows
from offline.rankers.ranker_language_model import RankerLanguageModel, RankerLanguageModelConfig
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from offline.rankers.ranking_data import RankingData
from offline.rankers.title_likelihood import fit_titles

_WORDS_OF_TEMPLATES = 128
"""Tokens that all templates have together, at most."""


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise TesseraError(f"recipe: {where} must be {' or '.join(known)}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class WordingConfig(FitConfig):
    """Settings of what a language model learns from the prompt's words alone, before the second stage."""

    train: str = "auto"
    """`auto`: where the language model is built from a config; `always`; `never`."""
    epochs: int = 4
    batch: int = 16
    at_once: int = 16
    learning_rate: float = 2e-3
    validation_rows: int = 500
    positions: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("wording.train", self.train, ("auto", "always", "never"))
        _one_of("wording.positions", self.positions, ("last", "all"))


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(FitConfig):
    """Settings of the second stage; the defaults are published."""

    epochs: int = 5
    batch: int = 4
    at_once: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup_share: float = 0.0
    patience: int = 5
    validation_rows: int = 500
    positions: str = "last"
    """Of a history that are trained on: the `last`, or `all`."""
    user_token: bool = True
    item_token: bool = True
    latents: str = "matched"
    """What stands for an item: `matched` by the first stage, or `random`, an ablation."""
    train_language_model: bool = False
    """Whether the language model (its adapters, where it has been pretrained) learns with the projectors."""
    language_model_rate: float = 5e-4
    """Learning rate of that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("projection.positions", self.positions, ("last", "all"))
        _one_of("projection.latents", self.latents, ("matched", "random"))


@dataclass(frozen=True, kw_only=True)
class ALLMRecRecipe(RankerRecipe):
    """Settings of every stage."""

    question: JudgementConfig = field(default_factory=JudgementConfig)
    language_model: RankerLanguageModelConfig = field(default_factory=RankerLanguageModelConfig)
    collaborative: EncoderConfig = field(default_factory=SASRecConfig)
    text: TextConfig = field(default_factory=TextConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    wording: WordingConfig = field(default_factory=WordingConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    shown: int = 20
    """Candidates that one prompt lists, at most."""
    score: str = SUM
    """Of a title's tokens: `sum` of the log-probabilities, or `mean`."""

    def __post_init__(self) -> None:
        _one_of("score", self.score, (SUM, MEAN))
        if self.shown < 2:
            raise TesseraError(f"recipe: shown must be at least 2, not {self.shown}")
        if isinstance(self.collaborative, DINConfig):
            raise TesseraError(
                "recipe: collaborative.kind=din has no vector of a user, which depends on the candidate there, and a "
                "soft token is one; choose another kind"
            )


def train_a_llmrec(recipe: ALLMRecRecipe, data: RankingData, device: torch.device | str) -> TrainedRanker:
    """Train all stages.

    Returns:
        The ranker, and beside it the collaborative encoder, the language model by the prompt's words alone, and the
        ranker with latents of texts for all items.
    """
    seed = recipe.seed
    # Data that does not fit is found before the encoder's training, not after it.
    next_item_rows(data, "last")
    assert data.split is not None
    encoder, encoder_metrics = train_encoder(
        data.split.train, data.split.evaluation_cases("valid"), len(data.catalog), recipe.collaborative, seed, device
    )
    encoder.eval().requires_grad_(False)
    matched = train_matching(data, encoder, recipe.text, recipe.matching, seed, device)
    language_model = naming_language_model(recipe, data, device)
    reports: dict[str, Any] = {"collaborative": encoder_metrics, "matching": matched.report}
    by_words = untrained_ranker(recipe, data, language_model, encoder, matched, ()).to(device).eval()
    if recipe.wording.train == "always" or (recipe.wording.train == "auto" and recipe.language_model.is_scratch):
        with language_model.trainable() as parameters:
            reports["wording"] = fit_titles(
                "language model",
                by_words,
                data,
                recipe.wording.positions,
                [Trained(parameters)],
                recipe.wording,
                seed,
                language_model=True,
            )
    if recipe.projection.train_language_model:
        by_words = _with_a_model_of_its_own(by_words)
    ranker, reports["projection"] = project(recipe, data, language_model, encoder, matched, device)
    language_model.merge()
    baselines = {recipe.collaborative.kind: encoder_scorer(encoder), "language model alone": by_words.rank}
    if ITEM in ranker.config.tokens:
        baselines["latents of texts"] = with_latents_of_texts(ranker).rank
    return TrainedRanker(ranker, reports, baselines)


def naming_language_model(recipe: ALLMRecRecipe, data: RankingData, device: torch.device | str) -> RankerLanguageModel:
    """The language model of a ranker that names items."""
    positions = longest_prompt(recipe.question, recipe.shown, _WORDS_OF_TEMPLATES)
    return RankerLanguageModel(recipe.language_model, data.catalog, TEMPLATES, positions, device, recipe.seed)


def project(
    recipe: ALLMRecRecipe,
    data: RankingData,
    language_model: RankerLanguageModel,
    encoder: CollaborativeEncoder,
    matched: Matched,
    device: torch.device | str,
) -> tuple[ALLMRecRanker, dict[str, Any]]:
    """The second stage: the ranker with its projectors trained; and what happened."""
    config = recipe.projection
    tokens = tuple(kind for kind, there in ((USER, config.user_token), (ITEM, config.item_token)) if there)
    torch.manual_seed(recipe.seed)
    ranker = untrained_ranker(recipe, data, language_model, encoder, matched, tokens).to(device)
    projectors = {USER: ranker.user_projector, ITEM: ranker.item_projector}
    trained = [Trained(projectors[kind].parameters()) for kind in tokens]

    def fitted(more: list[Trained]) -> dict[str, Any]:
        if not trained and not more:
            return {}
        what = "projectors" if not more else "projectors and language model"
        both = [*trained, *more]
        return fit_titles(what, ranker, data, config.positions, both, config, recipe.seed, language_model=bool(more))

    if not config.train_language_model:
        report = fitted([])
    else:
        with language_model.trainable() as parameters:
            report = fitted([Trained(parameters, config.language_model_rate)])
    return ranker.eval(), report


def untrained_ranker(
    recipe: ALLMRecRecipe,
    data: RankingData,
    language_model: RankerLanguageModel,
    encoder: CollaborativeEncoder,
    matched: Matched,
    tokens: tuple[str, ...],
) -> ALLMRecRanker:
    """The ranker as the second stage begins with it; it shares nothing with what it is made from."""
    assert data.split is not None
    own_text_encoder = matched.text_encoder is not None and bool(tokens)
    ranker = ALLMRecRanker(
        ALLMRecConfig(
            items=len(data.catalog),
            encoder=dataclasses.asdict(encoder.config),
            text=recipe.text,
            text_size=matched.texts_NX.shape[1],
            own_text_encoder=own_text_encoder,
            size=recipe.matching.size,
            tokens=tokens,
            shown=recipe.shown,
            score=recipe.score,
            question=recipe.question,
        ),
        language_model.soft,
        data.catalog,
    )
    ranker.encoder.load_state_dict(encoder.state_dict())
    ranker.autoencoders.load_state_dict(matched.autoencoders.state_dict())
    if own_text_encoder:
        assert ranker.text_encoder is not None
        assert matched.text_encoder is not None
        ranker.text_encoder.load_state_dict(matched.text_encoder.state_dict())
    met_N = torch.zeros(len(data.catalog), dtype=torch.bool)
    met_N[torch.from_numpy(np.unique(data.split.train.items).astype(np.int64))] = True
    with torch.no_grad():
        texts_NZ = matched.autoencoders.of_texts(matched.texts_NX).cpu()
        joint_NZ = matched.autoencoders.of_vectors(encoder.vectors().float()).cpu()
    if recipe.projection.latents == "random":
        # Between 0 and 1 like any latent.
        joint_NZ = torch.rand(joint_NZ.shape, generator=torch.Generator().manual_seed(recipe.seed))
    ranker.joint_NZ.copy_(torch.where(met_N[:, None], joint_NZ, texts_NZ))
    ranker.text_NZ.copy_(texts_NZ)
    return ranker


def with_latents_of_texts(ranker: ALLMRecRanker) -> ALLMRecRanker:
    """The same ranker, in which every item is its text; it shares all weights."""
    assert ranker.config.latents == JOINT
    other = copy.copy(ranker)
    other.config = dataclasses.replace(ranker.config, latents=TEXT)
    return other


def _with_a_model_of_its_own(ranker: ALLMRecRanker) -> ALLMRecRanker:
    other = copy.copy(ranker)
    other.language_model = ranker.language_model.copied()
    other.judgement = Judgement(ranker.config.question, other.language_model, ranker.catalog)
    return other
