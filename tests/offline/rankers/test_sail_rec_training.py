"""SAILRec's steps on a shop whose users like one colour: what learns, what stays, what is repeatable."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_store.errors import TesseraError
from model_store.rankers.text_vectors import text_vectors
from offline.ablation import read_rows
from offline.rankers.aligned_factors import train_factors
from offline.rankers.attention_shares import attention_shares
from offline.rankers.evaluate_ranker import evaluate_ranker
from offline.rankers.judgement_loss import JudgementLoss
from offline.rankers.kinds import load_ranker_recipe
from offline.rankers.label_codebooks import read_codebooks
from offline.rankers.profile_votes import vote
from offline.rankers.ranker_ablation import ROWS_FOLDER
from offline.rankers.ranker_language_model import RankerLanguageModel
from offline.rankers.ranking_data import RankingData
from offline.rankers.sail_rec import SailRecRecipe, SteeredJudgementLoss, train_sail_rec, untrained_ranker
from offline.rankers.sella_rec import judging_language_model
from offline.rankers.semantic_warm_up import ItemAlignment, UserAlignment, warm_up_items, warm_up_users
from tests.offline.rankers.judged_shop import read, write_labelled, write_sequences

SMALL = [
    "codebooks=catalog",
    "question.history=4",
    "text.epochs=2",
    "text.batch=32",
    "factorization.epochs=40",
    "factorization.batch=64",
    "factorization.at_once=64",
    "factorization.size=8",
    "factorization.learning_rate=0.02",
    "mapping.width=16",
    "mapping.heads=2",
    "mapping.item_width=16",
    "warm_up.epochs=10",
    "warm_up.batch=8",
    "judging.epochs=4",
    "judging.batch=32",
    "judging.learning_rate=0.003",
    "judging.language_model_rate=0.003",
    "judging.patience=9",
]


def recipe(*overrides: str) -> SailRecRecipe:
    loaded = load_ranker_recipe("sail-rec", [*SMALL, *overrides])
    assert isinstance(loaded, SailRecRecipe)
    return loaded


def with_categories(folder: Path) -> Path:
    """The shop's items have three codebooks' worth of categories: colours, kinds and both."""
    path = folder / "shop.item"
    lines = path.read_text().splitlines()
    with_them = [f"{line}\t{line.split()[1]} kind{number % 3}" for number, line in enumerate(lines[1:])]
    path.write_text("\n".join([f"{lines[0]}\tcategories:token_seq", *with_them]) + "\n")
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> RankingData:
    return read(with_categories(write_labelled(tmp_path_factory.mktemp("data") / "shop")))


def parts(data: RankingData, *overrides: str) -> tuple[SailRecRecipe, RankerLanguageModel, Any, Any, Any]:
    """What there is before the warm-ups."""
    chosen = recipe(*overrides)
    language_model = judging_language_model(chosen.language_model, chosen.question, data, "cpu", 0)
    tables = train_factors(data, torch.zeros(len(data.catalog), 1), chosen.factorization, 0).tables
    ranker = untrained_ranker(chosen, data, language_model, tables)
    codebooks = read_codebooks(chosen.codebooks, data.catalog, chosen.labelled_by, ranker.language_model)
    users = UserAlignment(ranker, data, codebooks, [vote(data, one) for one in codebooks], 0.1)
    return chosen, language_model, ranker, users, ItemAlignment(ranker, data.catalog.titles, 0.1)


def test_it_learns_what_users_like_and_says_so_again(tmp_path: Path) -> None:
    labelled = read(with_categories(write_labelled(tmp_path / "shop", all_alike=True)))
    chosen = recipe("text.epochs=6", "text.patience=20", "text.learning_rate=0.003", "warm_up.epochs=3")
    first = train_sail_rec(chosen, labelled, "cpu")
    metrics = evaluate_ranker(first.ranker.rank, labelled, "test")
    assert metrics["auc"] > 0.8
    assert set(first.baselines) == {"mf", "text-only"}
    assert set(first.reports) == {
        "factorization", "text", "profiles", "user_alignment", "item_alignment", "judging", "attention",
    }  # fmt: skip
    voted = first.reports["profiles"]["category"]
    assert voted == {"users": {"red": 0, "blue": 16}, "by_default": 0}
    second = train_sail_rec(chosen, labelled, "cpu")
    assert evaluate_ranker(second.ranker.rank, labelled, "test") == metrics
    for name, value in first.ranker.state_dict().items():
        assert torch.equal(value, second.ranker.state_dict()[name]), name


def test_without_labels_it_is_measured_by_the_first_of_twenty(tmp_path: Path) -> None:
    data = read(with_categories(write_sequences(tmp_path / "shop")))
    trained = train_sail_rec(recipe("judging.min_history=0", "text.min_history=0", "judging.epochs=1"), data, "cpu")
    metrics = evaluate_ranker(trained.ranker.rank, data, "test", most=8)
    assert set(metrics) == {"hit@1", "ndcg@10"}
    assert 0 <= metrics["hit@1"] <= metrics["ndcg@10"] <= 1


def test_warm_ups_draw_tokens_to_profiles_and_titles_and_touch_nothing_else(labelled: RankingData) -> None:
    chosen, language_model, ranker, users, items = parts(labelled, "warm_up.epochs=60", "warm_up.patience=60")
    before = {name: value.clone() for name, value in ranker.state_dict().items()}
    words = {name: value.clone() for name, value in language_model.soft.model.state_dict().items()}
    for alignment, warm_up, own in (
        (users, warm_up_users, "user_mapping"),
        (items, warm_up_items, "item_mapping"),
    ):
        everything = alignment.users if own == "user_mapping" else alignment.items
        loss = float(alignment.loss(everything).detach())
        report = warm_up(ranker, alignment, chosen.warm_up, 0)
        assert float(alignment.loss(everything).detach()) < loss - 0.3
        assert report["best_validation"] > report["curve"][0]["validation"] or report["best_step"] == 1
        after = ranker.state_dict()
        changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == {own}
        before = {name: value.clone() for name, value in after.items()}
    assert all(torch.equal(words[k], value) for k, value in language_model.soft.model.state_dict().items())


def test_the_users_loss_is_the_contrast_within_codebooks(labelled: RankingData) -> None:
    _, _, ranker, users, _ = parts(labelled)
    codebooks = read_codebooks("catalog", labelled.catalog, "categories", ranker.language_model)
    some = users.users[:5]
    expected = []
    for number, codebook in enumerate(codebooks):
        profiles = vote(labelled, codebook)
        labels = text_vectors(ranker.language_model, codebook.texts)
        for user in some:
            with torch.no_grad():
                token = ranker.user_tokens([users._requests[user]])[0, number]
            e = torch.exp(torch.cosine_similarity(token[None], labels, dim=-1) / 0.1)
            expected.append(-torch.log(e[profiles.labels[user]] / e.sum()))
    torch.testing.assert_close(users.loss(some).detach(), torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


def test_gradients_reach_mappings_and_language_model_and_never_the_factorization(labelled: RankingData) -> None:
    _, language_model, ranker, users, items = parts(labelled)
    samples = labelled.samples["train"].with_history(2)
    answers = JudgementLoss(ranker, labelled, samples, "answer")
    loss = SteeredJudgementLoss(answers, users, items, 0.1, samples.users, samples.items)
    loss(np.arange(24)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in language_model.soft.model.parameters())
    for name, parameter in ranker.named_parameters():
        if name.startswith("tables."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    with language_model.trainable() as parameters:
        loss(np.arange(24)).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters if p.ndim > 1)
    assert ranker.tables.users.weight.grad is None
    both = float(loss(np.arange(24)).detach())
    plain = float(answers(np.arange(24)).detach())
    assert both > plain


def test_the_third_step_trains_the_language_model_unless_told_otherwise(labelled: RankingData) -> None:
    short = ("judging.epochs=1", "warm_up.epochs=1", "text.epochs=1", "factorization.epochs=1", "attention_prompts=0")
    for there, told in ((True, "true"), (False, "false")):
        trained = train_sail_rec(recipe(f"judging.train_language_model={told}", *short), labelled, "cpu")
        baseline = trained.baselines["text-only"].__self__  # type: ignore[attr-defined]
        ours = trained.ranker.language_model.model.state_dict()
        changed = any(not torch.equal(v, ours[k]) for k, v in baseline.language_model.model.state_dict().items())
        assert changed == there
        factors = trained.baselines["mf"](labelled.sample_requests(labelled.samples["test"], [0]))
        assert np.isfinite(factors[0]).all()


def test_attention_is_reported_for_every_layer_with_and_without_steering(labelled: RankingData) -> None:
    _, _, ranker, _, _ = parts(labelled)
    found = attention_shares(ranker, labelled, "valid", most=20)
    assert found["biases"] == [-1.0, 1.0]
    assert found["prompts"] == 20
    for place in ("answer", "prompt"):
        steered, unsteered = found["steered"][place], found["unsteered"][place]
        assert len(steered) == len(unsteered) == 2
        assert 0 < steered[0] < unsteered[0] < 1
        assert unsteered[1] < steered[1] < 1
        assert 0 < found["even"][place] < 1
    # An untrained model attends almost evenly, and a bias of -1 then divides the odds by e.
    even = found["unsteered"]["answer"][0]
    assert found["even"]["answer"] == pytest.approx(even, rel=0.05)
    odds = even / (1 - even) / np.e
    assert found["steered"]["answer"][0] == pytest.approx(odds / (1 + odds), rel=0.05)


def test_every_row_of_the_study_is_another_recipe() -> None:
    rows = read_rows("sail-rec", folder=ROWS_FOLDER)
    made = {row.name: load_ranker_recipe("sail-rec", list(row.overrides)).as_dict() for row in rows}
    assert list(made) == [
        "sail-rec", "without user alignment", "without item alignment", "without steering", "reversed steering",
    ]  # fmt: skip
    assert all(list(made.values()).count(one) == 1 for one in made.values())


def test_settings_that_make_no_sense_are_named() -> None:
    for override, message in (
        ("steering.pattern=SXE", "steering.pattern must be three of"),
        ("factorization.weight=1", "factorization.weight must be 0"),
        ("text_first=maybe", "text_first must be one of auto, always, never"),
        ("labelled_by=hand", "labelled_by must be one of categories, language-model"),
        ("mapping.heads=3", "not divisible by mapping.heads 3"),
        ("mapping.blocks=0", "mapping has a size below 1"),
        ("warm_up.temperature=0", "warm_up.temperature must be above 0"),
        ("warm_up.held_out=1", "warm_up.held_out must be between"),
    ):
        with pytest.raises(TesseraError, match=message):
            load_ranker_recipe("sail-rec", [*SMALL, override])
