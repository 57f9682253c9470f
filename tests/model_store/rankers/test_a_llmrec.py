"""A-LLMRec: titles scored by their likelihood, candidates in no order, new items by their text alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.collaborative.configs import CONFIGS
from model_store.rankers.a_llmrec import ITEM, TOKENS, USER, ALLMRecConfig, in_an_order_of_their_own, longest_prompt
from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker, save_ranker
from model_store.rankers.soft_prompt import Slot, slot_keys
from model_store.text_encoder import TextEncoder
from tests.model_store.rankers.small_a_llmrec import small_a_llmrec, small_text_encoder
from tests.model_store.rankers.small_rankers import ARCHITECTURES, ITEMS, QUESTION, small_catalog


def asked(history: list[int], candidates: list[int]) -> RankRequest:
    return RankRequest(history=np.array(history, np.int32), candidates=np.array(candidates, np.int32))


REQUESTS = [asked([], [3, 1, 2]), asked([4, 5, 6, 7, 8, 9], [10, 0, 29, 11, 12]), asked([7], [8])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_score_is_the_sum_of_the_titles_log_probabilities_and_its_ends(architecture: str) -> None:
    ranker = small_a_llmrec(architecture)
    request = REQUESTS[1]
    model = ranker.language_model
    user = ranker.user_part(request, 0)
    with torch.no_grad():
        for item, score in zip(request.candidates.tolist(), ranker.rank([request])[0], strict=True):
            tokens = [*ranker.judgement.title(item), model.tokenizer.eos_token_id]
            total = 0.0
            for number, token in enumerate(tokens):
                prompt = user + ranker.candidate_part(request, 0, item)
                so_far = type(user)(prompt.parts[: len(user) + number])
                hidden = model.hidden(model.embed([so_far], ranker.soft_tokens([request], [so_far])))
                total += float(model.logits(hidden[0, -1]).log_softmax(-1)[token])
            assert score == pytest.approx(total, abs=2e-3)
    mean = small_a_llmrec(architecture, score="mean").rank([request])[0]
    lengths = [len(ranker.candidate_part(request, 0, int(item))) for item in request.candidates]
    np.testing.assert_allclose(mean * lengths, ranker.rank([request])[0], rtol=1e-4)


@pytest.mark.parametrize("encoder", sorted(set(CONFIGS) - {"din"}))
def test_a_shared_prefix_changes_no_score_whatever_the_encoder(encoder: str) -> None:
    ranker = small_a_llmrec(encoder=encoder)
    for one, other in zip(ranker.rank(REQUESTS), ranker.rank(REQUESTS, share_prefix=False), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    assert np.concatenate(ranker.rank(REQUESTS)).std() > 1e-2


def test_where_a_candidate_stands_says_nothing() -> None:
    ranker = small_a_llmrec()
    forward = asked([1, 2], list(range(12)))
    backward = asked([1, 2], list(range(12))[::-1])
    np.testing.assert_allclose(ranker.rank([backward])[0][::-1], ranker.rank([forward])[0], atol=1e-4)
    places = [in_an_order_of_their_own(np.array([0, *others])).index(0) for others in np.arange(1, 401).reshape(-1, 4)]
    assert np.bincount(places, minlength=5).min() > 5


def test_every_candidate_is_listed_in_a_prompt_and_more_than_shown_make_more_prompts() -> None:
    ranker = small_a_llmrec(shown=4)
    many = asked([1], list(range(10)))
    scores = ranker.rank([many, REQUESTS[0]])
    groups = [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    for group in groups:
        np.testing.assert_allclose(scores[0][group], ranker.rank([asked([1], group)])[0], atol=1e-3)
        listed = slot_keys([ranker.user_part(asked([1], group), 0)], ITEM).tolist()
        assert listed[0] == 1
        assert sorted(listed[1:]) == group
    np.testing.assert_allclose(scores[1], ranker.rank([REQUESTS[0]])[0], atol=1e-3)
    assert ranker.rank([asked([1], [])])[0].shape == (0,)


def test_the_prompt_has_the_newest_items_and_fits_what_is_said_of_its_length() -> None:
    ranker = small_a_llmrec()
    request = asked(list(range(10)), list(range(10, 30)))
    part = ranker.user_part(request, 3)
    assert slot_keys([part], USER).tolist() == [3]
    keys = slot_keys([part], ITEM).tolist()
    assert keys[:4] == [6, 7, 8, 9]
    assert sorted(keys[4:]) == list(range(10, 30))
    words = sum(len(ranker.language_model.text(piece)) for piece in (" is a user representation.",) * 8)
    assert len(part) + len(ranker.candidate_part(request, 3, 11)) <= longest_prompt(QUESTION, 20, words)


@pytest.mark.parametrize("tokens", [(), (USER,), (ITEM,), TOKENS])
def test_tokens_that_are_left_out_are_in_no_prompt(tokens: tuple[str, ...]) -> None:
    ranker = small_a_llmrec(tokens=tokens)
    part = ranker.user_part(REQUESTS[1], 0)
    assert {piece.kind for piece in part.parts if isinstance(piece, Slot)} == set(tokens)
    assert np.isfinite(ranker.rank(REQUESTS)[1]).all()


def test_gradients_reach_the_projectors_and_nothing_else() -> None:
    ranker = small_a_llmrec().train()
    ranker.language_model.model.requires_grad_(False)
    assert not ranker.encoder.training
    ranker.scores(REQUESTS, [0, 1], [3, 29]).sum().backward()
    reached = {name for name, value in ranker.named_parameters() if value.grad is not None and value.grad.any()}
    assert reached == {name for name, value in ranker.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in reached} == {"user_projector", "item_projector"}
    assert all(value.grad is None for value in ranker.language_model.model.parameters())


def test_latents_of_texts_stand_for_all_items_where_they_are_asked_for() -> None:
    joint, text = small_a_llmrec(), small_a_llmrec(latents="text")
    before = text.rank(REQUESTS)[1]
    assert np.abs(joint.rank(REQUESTS)[1] - before).max() > 1e-3
    text.joint_NZ.zero_()
    np.testing.assert_array_equal(text.rank(REQUESTS)[1], before)
    text.text_NZ.zero_()
    assert np.abs(text.rank(REQUESTS)[1] - before).max() > 1e-3


@pytest.mark.parametrize("encoder", ["sasrec", "gru4rec", "mf"])
def test_a_saved_ranker_scores_as_before_and_takes_new_items_by_their_text(tmp_path: Path, encoder: str) -> None:
    ranker = small_a_llmrec(encoder=encoder)
    save_ranker(tmp_path / "ranker", ranker)
    loaded = load_ranker(tmp_path / "ranker", small_catalog())
    assert loaded.config == ranker.config
    grown = load_ranker(tmp_path / "ranker", small_catalog(ITEMS + 3))
    for request, before in zip(REQUESTS, ranker.rank(REQUESTS), strict=True):
        np.testing.assert_allclose(loaded.rank([request])[0], before, atol=1e-4)
        np.testing.assert_allclose(grown.rank([request])[0], before, atol=1e-4)
    new = [ITEMS, ITEMS + 1, ITEMS + 2]
    texts = TextEncoder(ranker.config.text).encode([small_catalog(ITEMS + 3).document(item) for item in new])
    latents = ranker.autoencoders.of_texts(torch.from_numpy(texts))
    torch.testing.assert_close(grown.joint_NZ[ITEMS:], latents)
    torch.testing.assert_close(grown.encoder.vectors()[ITEMS:], ranker.autoencoders.item_decoder(latents))
    assert np.isfinite(grown.rank([asked([ITEMS, 3], [*new, 1])])[0]).all()


def test_a_text_encoder_of_its_own_is_saved_and_reads_new_items(tmp_path: Path) -> None:
    text = small_text_encoder(tmp_path / "text")
    ranker = small_a_llmrec(text=text, text_size=16)
    assert ranker.text_encoder is not None
    with torch.no_grad():
        for value in ranker.text_encoder.parameters():
            value.add_(torch.randn_like(value))
    save_ranker(tmp_path / "ranker", ranker)
    catalog = small_catalog(ITEMS + 1)
    grown = load_ranker(tmp_path / "ranker", catalog)
    own = ranker.text_encoder.encode([catalog.document(ITEMS)])
    torch.testing.assert_close(grown.joint_NZ[ITEMS:], ranker.autoencoders.of_texts(own))
    as_it_came = torch.from_numpy(TextEncoder(text).encode([catalog.document(ITEMS)]))
    assert not torch.allclose(own, as_it_came, atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"), [({"latents": "none"}, "latents"), ({"score": "max"}, "score"), ({"shown": 0}, "shown")]
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ALLMRecConfig(items=3, encoder={"kind": "sasrec"}, **settings)  # type: ignore[arg-type]
