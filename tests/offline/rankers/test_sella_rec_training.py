"""SeLLa-Rec's steps on a shop whose users like one colour: what learns, what stays, what is repeatable."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from model_store.errors import TesseraError
from model_store.rankers.text_vectors import text_vectors, title_texts
from offline.rankers.aligned_factors import AlignedFactors, alignment_loss, train_factors
from offline.rankers.evaluate_ranker import evaluate_ranker
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import JudgementLoss
from offline.rankers.kinds import KINDS, load_ranker_recipe
from offline.rankers.ranker_language_model import RankerLanguageModel
from offline.rankers.ranking_data import RankingData
from offline.rankers.sella_rec import SellaRecRecipe, judging_language_model, train_sella_rec, untrained_ranker
from tests.offline.rankers.judged_shop import read, write_labelled, write_sequences

SMALL = [
    "question.history=4",
    "text.epochs=2",
    "text.batch=32",
    "injection.epochs=2",
    "injection.batch=32",
    "injection.learning_rate=0.003",
    "alignment.epochs=40",
    "alignment.batch=64",
    "alignment.at_once=64",
    "alignment.size=8",
    "alignment.width=16",
    "alignment.learning_rate=0.02",
]


def recipe(*overrides: str) -> SellaRecRecipe:
    loaded = load_ranker_recipe("sella-rec", [*SMALL, *overrides])
    assert isinstance(loaded, SellaRecRecipe)
    return loaded


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> RankingData:
    return read(write_labelled(tmp_path_factory.mktemp("data") / "shop"))


def before_injection(data: RankingData, *overrides: str) -> tuple[RankerLanguageModel, AlignedFactors, SellaRecRecipe]:
    chosen = recipe(*overrides)
    language_model = judging_language_model(chosen.language_model, chosen.question, data, "cpu", 0)
    titles = text_vectors(language_model.soft, title_texts(data.catalog, range(len(data.catalog))))
    return language_model, train_factors(data, titles, replace(chosen.alignment, epochs=1), 0), chosen


def test_it_learns_what_users_like_and_says_so_again(tmp_path: Path) -> None:
    labelled = read(write_labelled(tmp_path / "shop", all_alike=True))
    chosen = recipe("text.epochs=10", "text.patience=20", "injection.epochs=4")
    first = train_sella_rec(chosen, labelled, "cpu")
    metrics = evaluate_ranker(first.ranker.rank, labelled, "test")
    assert metrics["auc"] > 0.8
    assert set(first.baselines) == {"text-only"}
    assert set(first.reports) == {"text", "alignment", "injection"}
    second = train_sella_rec(chosen, labelled, "cpu")
    assert evaluate_ranker(second.ranker.rank, labelled, "test") == metrics
    for name, value in first.ranker.state_dict().items():
        assert torch.equal(value, second.ranker.state_dict()[name]), name


def test_without_labels_it_is_measured_by_the_first_of_twenty(tmp_path: Path) -> None:
    data = read(write_sequences(tmp_path / "shop"))
    trained = train_sella_rec(recipe("text.min_history=0"), data, "cpu")
    metrics = evaluate_ranker(trained.ranker.rank, data, "test", most=8)
    assert set(metrics) == {"hit@1", "ndcg@10"}
    assert 0 <= metrics["hit@1"] <= metrics["ndcg@10"] <= 1


@pytest.mark.parametrize("loss_on", ["answer", "prompt"])
def test_soft_tokens_have_gradients_and_the_language_model_has_none(labelled: RankingData, loss_on: str) -> None:
    language_model, factors, chosen = before_injection(labelled)
    ranker = untrained_ranker(chosen, labelled, language_model, factors)
    samples = labelled.samples["train"].with_history(2)
    JudgementLoss(ranker, labelled, samples, loss_on)(np.arange(24)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in language_model.soft.model.parameters())
    assert not any(p.requires_grad for p in language_model.soft.model.parameters())
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    asked = set(samples.items[:24].tolist())
    for table in (ranker.tables.items, ranker.title_vectors):
        assert set(table.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == asked


def test_the_third_step_leaves_the_language_model_unless_told_otherwise(labelled: RankingData) -> None:
    for there, told in ((False, "false"), (True, "true")):
        chosen = recipe(f"injection.train_language_model={told}", "text.epochs=1", "alignment.epochs=1")
        trained = train_sella_rec(chosen, labelled, "cpu")
        baseline = trained.baselines["text-only"].__self__  # type: ignore[attr-defined]
        ours = trained.ranker.language_model.model.state_dict()
        changed = any(not torch.equal(v, ours[k]) for k, v in baseline.language_model.model.state_dict().items())
        assert changed == there


def test_the_projector_starts_from_the_second_step_unless_told_otherwise(labelled: RankingData) -> None:
    for start in ("true", "false"):
        language_model, factors, chosen = before_injection(labelled, f"injection.warm_start={start}")
        ranker = untrained_ranker(chosen, labelled, language_model, factors)
        same = torch.equal(ranker.projector[0].weight, factors.projector[0].weight)
        assert same == (start == "true")
        assert torch.equal(ranker.tables.users.weight, factors.tables.users.weight)


def test_alignment_draws_items_to_their_own_titles(tmp_path: Path) -> None:
    labelled = read(write_labelled(tmp_path / "shop", rows_a_user=200))
    torch.manual_seed(0)
    titles = torch.randn(len(labelled.catalog), 12)
    # One validation, at the end: there is nothing to choose from.
    chosen = recipe("alignment.epochs=1", "alignment.batch=16").alignment

    def nearest(weight: float) -> float:
        factors = train_factors(labelled, titles, replace(chosen, weight=weight), 0)
        with torch.no_grad():
            projected = nn.functional.normalize(factors.projector(factors.tables.items.weight), dim=-1)
            cosines = projected @ nn.functional.normalize(factors.title_vectors, dim=-1).T
        return float((cosines.argmax(1) == torch.arange(len(cosines))).float().mean())

    assert nearest(1.0) > 0.8
    assert nearest(0.0) < 0.3


def test_both_contrasts_are_what_their_formulas_say() -> None:
    torch.manual_seed(1)
    projected, titles = torch.randn(4, 6), torch.randn(4, 6)
    items = torch.tensor([0, 1, 1, 2])
    cosines = nn.functional.cosine_similarity(projected[:, None], titles[None], dim=-1)
    plain, robust = [], []
    for row in range(4):
        # The other copy of item 1 is no negative of it.
        kept = [column for column in range(4) if column == row or items[column] != items[row]]
        p = torch.exp(cosines[row, row] / 0.2)
        n = sum(torch.exp(cosines[row, column] / 0.2) for column in kept)
        plain.append(-torch.log(p / n))
        robust.append((0.1 * (p + n)) ** 0.01 / 0.01 - p**0.01 / 0.01)
    for contrast, expected in (("infonce", plain), ("robust", robust)):
        found = alignment_loss(projected, titles, items, 0.2, contrast)
        torch.testing.assert_close(found, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


def test_settings_that_make_no_sense_are_named() -> None:
    for override, message in (
        ("alignment.contrast=cubic", "alignment.contrast must be infonce or robust"),
        ("text.loss_on=title", "loss_on must be answer or prompt"),
        ("injection.warm=true", "unknown setting 'injection.warm'"),
        ("text.epochs=0", "epochs must be at least 1"),
        ("language_model.llm=scratch:giant", "is not one of scratch:tiny"),
        ("kind=oracle", "kind 'oracle' is no ranker; known: " + ", ".join(sorted(KINDS))),
    ):
        with pytest.raises(TesseraError, match=message):
            load_ranker_recipe("sella-rec", [override])


def test_the_best_validation_is_what_stays() -> None:
    weight = nn.Parameter(torch.tensor([4.0]))
    found: list[float] = []

    def validate() -> float:
        found.append(-abs(weight.item() - 2))
        return found[-1]

    config = FitConfig(epochs=50, batch=1, at_once=1, learning_rate=0.3, weight_decay=0, patience=50)
    report = fit(
        "weight", 1, lambda rows: (weight + 3).square().mean(), [Trained([weight])], config, 0, validate=validate
    )
    assert -abs(weight.item() - 2) == pytest.approx(max(found))
    assert report["best_validation"] == pytest.approx(max(found))
    assert 0 < report["best_step"] < report["steps"]


def test_accumulated_gradients_are_those_of_one_batch() -> None:
    values = torch.randn(10)

    def trained(at_once: int) -> float:
        weight = nn.Parameter(torch.tensor([0.5]))
        config = FitConfig(batch=10, at_once=at_once, epochs=3, weight_decay=0, patience=9)
        loss = lambda rows: ((weight * values[rows] - 1) ** 2).mean()  # noqa: E731
        fit("weight", 10, loss, [Trained([weight])], config, 0, validate=lambda: weight.item())
        return weight.item()

    assert trained(3) == pytest.approx(trained(10), abs=1e-6)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(TesseraError, match="the loss is nan; lower learning_rate"):
        fit("weight", 1, lambda rows: (weight / 0).sum(), [Trained([weight])], FitConfig(), 0, validate=lambda: 0.0)
