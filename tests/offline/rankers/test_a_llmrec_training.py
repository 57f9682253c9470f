"""A-LLMRec's stages on small shops: losses by hand, what learns and what stays, what is repeatable, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.collaborative.configs import CONFIGS
from model_store.errors import TesseraError
from model_store.rankers.joint_autoencoders import JointAutoencoders
from model_store.text_encoder import TextConfig
from offline.collaborative.kinds import train_encoder
from offline.rankers.a_llmrec import (
    ALLMRecRecipe,
    naming_language_model,
    project,
    train_a_llmrec,
    untrained_ranker,
    with_latents_of_texts,
)
from offline.rankers.encoder_scorer import encoder_scorer
from offline.rankers.evaluate_ranker import evaluate_ranker
from offline.rankers.kinds import RECIPES_FOLDER, load_ranker_recipe
from offline.rankers.matching import Matched, MatchingConfig, matching_terms, train_matching
from offline.rankers.next_item_rows import NegativeItems, next_item_rows
from offline.rankers.ranking_data import RankingData
from offline.rankers.title_likelihood import TitleLikelihood
from tests.model_store.rankers.small_a_llmrec import small_text_encoder
from tests.offline.rankers.judged_shop import ITEMS, USERS, read, write_labelled, write_sequences

SMALL = [
    "question.history=3",
    "question.title_tokens=6",
    "shown=4",
    "collaborative.epochs=2",
    "collaborative.size=8",
    "text.max_tokens=8",
    "matching.size=6",
    "matching.epochs=2",
    "wording.epochs=1",
    "wording.validation_rows=4",
    "projection.epochs=1",
    "projection.batch=8",
    "projection.validation_rows=4",
]


def recipe(*overrides: str) -> ALLMRecRecipe:
    loaded = load_ranker_recipe("a-llmrec", [*SMALL, *overrides])
    assert isinstance(loaded, ALLMRecRecipe)
    return loaded


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RankingData:
    return read(write_sequences(tmp_path_factory.mktemp("data") / "shop"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextConfig:
    return small_text_encoder(tmp_path_factory.mktemp("text") / "encoder")


def first_stage(data: RankingData, text: TextConfig, *overrides: str):
    chosen = replace(recipe(*overrides), text=text)
    assert data.split is not None
    encoder, _ = train_encoder(
        data.split.train, data.split.evaluation_cases("valid"), len(data.catalog), chosen.collaborative, 0
    )
    return chosen, encoder, train_matching(data, encoder, text, chosen.matching, 0)


@pytest.mark.parametrize("product", ["mean", "dot"])
def test_the_four_losses_are_those_of_the_paper(product: str) -> None:
    torch.manual_seed(3)
    autoencoders = JointAutoencoders(3, 5, 2)
    x, e, n = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    q, m = torch.randn(4, 5), torch.randn(4, 5)
    found = matching_terms(autoencoders, x, (e, n), (q, m), product)

    def layer(network, values):
        return values @ network.weight.T + network.bias

    def latent(network, values):
        return 1 / (1 + torch.exp(-layer(network[0], values)))

    match = item = texts = 0.0
    for vectors, documents in ((e, q), (n, m)):
        z, w = latent(autoencoders.item_encoder, vectors), latent(autoencoders.text_encoder, documents)
        match += ((z - w) ** 2).mean()
        item += ((layer(autoencoders.item_decoder, z) - vectors) ** 2).mean()
        texts += ((layer(autoencoders.text_decoder, w) - documents) ** 2).mean()
    liked, other = (
        (x * layer(autoencoders.item_decoder, latent(autoencoders.item_encoder, vectors))).sum(1) for vectors in (e, n)
    )
    if product == "mean":
        liked, other = liked / 3, other / 3
    recommendation = (-torch.log(torch.sigmoid(liked)) - torch.log(1 - torch.sigmoid(other))).mean()
    torch.testing.assert_close(found.match, match)
    torch.testing.assert_close(found.item_reconstruction, item)
    torch.testing.assert_close(found.text_reconstruction, texts)
    torch.testing.assert_close(found.recommendation, recommendation)
    weighted = found.weighted(MatchingConfig(item_reconstruction=0.3, text_reconstruction=0.2))
    torch.testing.assert_close(weighted, match + 0.3 * item + 0.2 * texts + recommendation)


def test_the_text_that_is_reconstructed_is_no_way_back_into_the_text_encoder() -> None:
    autoencoders = JointAutoencoders(3, 5, 2)
    for parameter in autoencoders.text_encoder.parameters():
        torch.nn.init.zeros_(parameter)
    texts = torch.randn(4, 5, requires_grad=True)
    terms = matching_terms(autoencoders, torch.randn(4, 3), (torch.randn(4, 3),) * 2, (texts, texts), "mean")
    terms.text_reconstruction.backward()
    # Through the latent nothing comes: its weights are zero.
    assert texts.grad is None or not texts.grad.any()


def test_matching_brings_the_two_latents_of_an_item_together(shop: RankingData, text: TextConfig) -> None:
    def distance(matched: Matched, encoder) -> float:
        with torch.no_grad():
            z = matched.autoencoders.of_vectors(encoder.vectors())
            return float((z - matched.autoencoders.of_texts(matched.texts_NX)).pow(2).mean())

    _, encoder, few = first_stage(shop, text, "matching.epochs=1", "matching.learning_rate=0.000001")
    _, _, many = first_stage(shop, text, "matching.epochs=30", "matching.learning_rate=0.01")
    assert distance(many, encoder) < 0.3 * distance(few, encoder)
    assert len(many.report["curve"]) > 1


@pytest.mark.parametrize("tuned", [True, False])
def test_the_text_encoder_is_trained_where_it_is_asked_for(shop: RankingData, text: TextConfig, tuned: bool) -> None:
    _, encoder, matched = first_stage(shop, text, f"matching.tune_text_encoder={str(tuned).lower()}")
    _, _, untouched = first_stage(shop, text, "matching.tune_text_encoder=false")
    assert (matched.text_encoder is not None) == tuned
    assert torch.allclose(matched.texts_NX, untouched.texts_NX, atol=1e-5) != tuned
    assert all(value.grad is None for value in encoder.parameters() if not value.requires_grad)


def test_nothing_but_the_projectors_changes_in_the_second_stage(shop: RankingData, text: TextConfig) -> None:
    chosen, encoder, matched = first_stage(shop, text)
    language_model = naming_language_model(chosen, shop, "cpu")
    words = {name: value.clone() for name, value in language_model.soft.model.state_dict().items()}
    torch.manual_seed(chosen.seed)
    before = untrained_ranker(chosen, shop, language_model, encoder, matched, ("user", "item")).state_dict()
    ranker, report = project(chosen, shop, language_model, encoder, matched, "cpu")
    changed = {
        name.split(".")[0] for name, value in ranker.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"user_projector", "item_projector"}
    assert all(torch.equal(value, words[name]) for name, value in language_model.soft.model.state_dict().items())
    assert report["steps"] > 0


def test_an_item_nobody_has_met_is_its_text_and_others_are_their_vectors(shop: RankingData, text: TextConfig) -> None:
    chosen, encoder, matched = first_stage(shop, text)
    assert shop.split is not None
    met = np.isin(np.arange(ITEMS), shop.split.train.items)
    assert 0 < met.sum() < ITEMS, "the shop has both"
    language_model = naming_language_model(chosen, shop, "cpu")
    ranker = untrained_ranker(chosen, shop, language_model, encoder, matched, ("user", "item"))
    torch.testing.assert_close(ranker.joint_NZ[~met], matched.autoencoders.of_texts(matched.texts_NX)[~met])
    torch.testing.assert_close(ranker.joint_NZ[met], matched.autoencoders.of_vectors(encoder.vectors())[met])
    random = replace(chosen, projection=replace(chosen.projection, latents="random"))
    other = untrained_ranker(random, shop, language_model, encoder, matched, ("user", "item"))
    assert not torch.isclose(other.joint_NZ[met], ranker.joint_NZ[met]).all(1).any()
    assert torch.equal(with_latents_of_texts(ranker).joint_NZ, ranker.joint_NZ)
    assert with_latents_of_texts(ranker).config.latents == "text"


def test_titles_are_learned_from_lists_of_what_the_user_does_not_have(shop: RankingData, text: TextConfig) -> None:
    chosen, encoder, matched = first_stage(shop, text)
    language_model = naming_language_model(chosen, shop, "cpu")
    ranker = untrained_ranker(chosen, shop, language_model, encoder, matched, ("user", "item")).eval()
    rows = next_item_rows(shop, "all")
    found = TitleLikelihood(ranker, shop, rows, 0)(np.array([0, 5]))
    # An untrained model says every one of its tokens alike, nearly.
    assert float(found) == pytest.approx(np.log(len(language_model.soft.tokenizer)), rel=0.1)
    drawn = NegativeItems(shop, 0).of(np.repeat(rows.users, 3), 5)
    for user, items in zip(np.repeat(rows.users, 3).tolist(), drawn.tolist(), strict=True):
        assert len(set(items)) == 5
        assert shop.split is not None
        assert not set(items) & set(shop.split.train[user].tolist())


def test_the_last_position_is_one_row_a_user(shop: RankingData) -> None:
    last, every = next_item_rows(shop, "last"), next_item_rows(shop, "all")
    assert len(set(last.users.tolist())) == len(last) <= len(every)
    assert shop.split is not None
    for row in range(len(last)):
        own = shop.split.train[int(last.users[row])]
        assert last.items[row] == own[-1]
        np.testing.assert_array_equal(last.history(row), own[:-1])


def test_all_stages_run_alike_twice_and_have_their_baselines(shop: RankingData, text: TextConfig) -> None:
    chosen = replace(recipe("collaborative.kind=gru4rec"), text=text)
    first, second = (train_a_llmrec(chosen, shop, "cpu") for _ in range(2))
    assert list(first.reports) == ["collaborative", "matching", "wording", "projection"]
    assert list(first.baselines) == ["gru4rec", "language model alone", "latents of texts"]
    assert first.ranker.config.encoder["kind"] == "gru4rec"
    for name, value in first.ranker.state_dict().items():
        assert torch.equal(value, second.ranker.state_dict()[name]), name
    for scorer in (first.ranker.rank, *first.baselines.values()):
        metrics = evaluate_ranker(scorer, shop, "test")
        assert 0 <= metrics["hit@1"] <= metrics["ndcg@10"] <= 1


def test_it_learns_which_titles_come_next(tmp_path: Path, text: TextConfig) -> None:
    data = read(write_sequences(tmp_path / "shop"))
    quick = ["wording.epochs=12", "wording.patience=12", "wording.validation_rows=16", "shown=4", "matching.epochs=1"]
    chosen = replace(recipe(*quick, "wording.learning_rate=0.01"), text=text)
    trained = train_a_llmrec(chosen, data, "cpu")
    curve = trained.reports["wording"]["curve"]
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"]


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_an_encoders_own_scores_are_its_logits(shop: RankingData, kind: str) -> None:
    config = CONFIGS[kind](epochs=1, size=8)
    assert shop.split is not None
    encoder, _ = train_encoder(shop.split.train, shop.split.evaluation_cases("valid"), ITEMS, config, 0)
    lists = shop.lists["test"]
    scores = encoder_scorer(encoder)(shop.list_requests(lists, [0, 1]))
    logits = encoder.next_item_logits([lists.histories[0], lists.histories[1]]).numpy()
    for row in range(2):
        np.testing.assert_allclose(scores[row], logits[row][lists.candidates[row]], rtol=1e-5)
    assert len(lists) == USERS


def test_labels_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    labelled = read(write_labelled(tmp_path / "labelled"))
    with pytest.raises(TesseraError, match="label column"):
        train_a_llmrec(recipe(), labelled, "cpu")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("matching.product=max", r"matching\.product must be mean or dot"),
        ("matching.positions=some", r"matching\.positions"),
        ("matching.size=0", r"matching\.size"),
        ("projection.latents=none", r"projection\.latents must be matched or random"),
        ("wording.train=perhaps", r"wording\.train must be auto or always or never"),
        ("score=max", "score must be sum or mean"),
        ("shown=1", "shown must be at least 2"),
        ("collaborative.kind=tarot", r"collaborative\.kind 'tarot' is unknown"),
        ("collaborative.kind=din", "has no vector of a user"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(TesseraError, match=message):
        recipe(override)


def test_the_recipes_that_come_with_tessera_can_be_read() -> None:
    names = [path.stem for path in RECIPES_FOLDER.glob("a-llmrec*.toml")]
    assert sorted(names) == ["a-llmrec", "a-llmrec-published"]
    published = load_ranker_recipe("a-llmrec-published")
    assert isinstance(published, ALLMRecRecipe)
    assert published.matching.tune_text_encoder
    assert (published.projection.epochs, published.projection.learning_rate, published.shown) == (5, 1e-4, 20)
