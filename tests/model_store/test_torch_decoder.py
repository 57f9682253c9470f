"""The torch decoder against brute force: every item scored by a plain forward pass of the whole sequence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_store.code_tokens import CodeTokens
from model_store.decoders import torch_decoder
from model_store.decoders.language_model import HuggingFaceModel
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import DecoderUnusable
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import EligibleItems, PrefixTrie
from model_store.prompts import PromptEncoder
from tests.tiny_bundle import build_tiny_bundle, tiny_tokenizer

ITEMS = 120
TOKENIZER = tiny_tokenizer()
VOCABULARY = len(TOKENIZER)
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    # Weights this large make a peaked, opinionated model; the usual start is nearly uniform and proves little.
    "initializer_range": 0.3,
}
MODELS = {
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=32)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=1)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=1)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=256, initializer_range=0.2)
    ),
}


class World:
    """A small catalogue and one model."""

    def __init__(self, model, score="children", codes=None):
        rng = np.random.default_rng(0)
        if codes is None:
            codes = np.unique(rng.integers(0, [12, 6, 5, 9], (ITEMS * 2, 4)).astype(np.uint8), axis=0)
            codes = rng.permutation(codes)[:ITEMS]
        self.codes = ItemCodes(codes)
        self.trie = PrefixTrie.build(self.codes)
        self.tokens = CodeTokens.from_vocabulary(TOKENIZER, Path("tiny"))
        self.prompts = PromptEncoder.create(TOKENIZER, self.tokens, self.codes, max_history=20)
        self.model = model.eval()
        self.score = score
        self.decoder = TorchDecoder(
            HuggingFaceModel(model), self.tokens, self.prompts, self.trie, batch_size=4, score=score
        )

    def brute_force(self, history, query=None):
        return self.brute_force_levels(history, query).sum(axis=1)

    def brute_force_levels(self, history, query=None):
        """What each level of each item's code adds to its score."""
        prompt = self.prompts.sequential(history) if query is None else self.prompts.query(history, query)
        items = len(self.codes)
        whole = np.concatenate([np.repeat(prompt[None], items, 0), self.prompts.item_tokens_NL], axis=1)
        with torch.no_grad():
            logits = self.model(input_ids=torch.from_numpy(whole.astype(np.int64))).logits[:, len(prompt) - 1 : -1]
        codes = self.codes.codes_NL
        scores = np.zeros((items, 4))
        for item in range(items):
            for level in range(4):
                if self.score == "vocabulary":
                    tokens = np.arange(VOCABULARY)
                else:
                    siblings = codes[(codes[:, :level] == codes[item, :level]).all(axis=1), level]
                    tokens = self.tokens.ids_LC[level][np.unique(siblings)]
                log_probs = logits[item, level, torch.from_numpy(tokens.astype(np.int64))].log_softmax(-1)
                scores[item, level] = log_probs[
                    np.searchsorted(tokens, self.prompts.item_tokens_NL[item, level])
                ].item()
        return scores


@pytest.fixture(scope="module", params=sorted(MODELS))
def world(request):
    torch.manual_seed(0)
    return World(MODELS[request.param]())


@pytest.fixture(scope="module")
def neox():
    torch.manual_seed(0)
    return World(MODELS["gpt-neox"]())


def histories(count, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, ITEMS, rng.integers(1, 25)).astype(np.int32) for _ in range(count)]


def test_a_wide_beam_returns_the_exact_top_items_and_scores(world):
    for history in histories(5):
        expected = world.brute_force(history)
        expected[history] = -np.inf
        request = DecodeRequest(history=history, n=10, beam_width=ITEMS, excluded=history)
        (answer,) = world.decoder.decode([request])
        assert [decoded.item for decoded in answer] == np.argsort(-expected)[:10].tolist()
        np.testing.assert_allclose([decoded.score for decoded in answer], np.sort(expected)[::-1][:10], atol=1e-3)


def test_scoring_given_items_equals_brute_force_and_sums_to_one(world):
    (history,) = histories(1)
    scores = world.decoder.score_items(history, np.arange(ITEMS, dtype=np.int32))
    np.testing.assert_allclose(scores, world.brute_force(history), atol=1e-3)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)


def test_vocabulary_scores_are_the_models_own_log_probabilities():
    torch.manual_seed(0)
    world = World(MODELS["qwen3"](), score="vocabulary")
    (history,) = histories(1)
    items = np.arange(ITEMS, dtype=np.int32)
    np.testing.assert_allclose(world.decoder.score_items(history, items), world.brute_force(history), atol=1e-3)
    (answer,) = world.decoder.decode([DecodeRequest(history=history, n=5, beam_width=ITEMS)])
    assert [decoded.item for decoded in answer] == np.argsort(-world.brute_force(history))[:5].tolist()


def test_an_items_score_does_not_depend_on_the_filter(neox):
    (history,) = histories(1)
    free = {
        d.item: d.score for d in neox.decoder.decode([DecodeRequest(history=history, n=ITEMS, beam_width=ITEMS)])[0]
    }
    mask = np.arange(ITEMS) % 3 == 0
    eligible = EligibleItems.from_mask(neox.trie, mask)
    (answer,) = neox.decoder.decode([DecodeRequest(history=history, n=ITEMS, beam_width=ITEMS, eligible=eligible)])
    assert {decoded.item for decoded in answer} == set(np.flatnonzero(mask).tolist())
    for decoded in answer:
        assert decoded.score == pytest.approx(free[decoded.item], abs=1e-4)


@pytest.mark.parametrize("eligible_items", [0, 1, 3, 7, 60])
def test_exactly_min_of_n_and_eligible_distinct_items_come_back(neox, eligible_items):
    rng = np.random.default_rng(eligible_items)
    mask = np.zeros(ITEMS, dtype=bool)
    mask[rng.permutation(ITEMS)[:eligible_items]] = True
    eligible = EligibleItems.from_mask(neox.trie, mask)
    for history in histories(3, seed=eligible_items):
        excluded = rng.integers(0, ITEMS, 40).astype(np.int32)
        allowed = set(np.flatnonzero(mask).tolist()) - set(excluded.tolist())
        request = DecodeRequest(history=history, n=6, beam_width=6, excluded=excluded, eligible=eligible)
        items = [decoded.item for decoded in neox.decoder.decode([request])[0]]
        assert len(items) == len(set(items)) == min(6, len(allowed))
        assert set(items) <= allowed


def test_a_batch_answers_as_its_requests_would_alone(neox):
    requests = [
        DecodeRequest(history=history, n=5, beam_width=width, excluded=history)
        for history, width in zip(histories(11), [8, 20] * 6, strict=False)
    ]
    together = neox.decoder.decode(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = neox.decoder.decode([request])
        assert [d.item for d in alone] == [d.item for d in answer]
        np.testing.assert_allclose([d.score for d in alone], [d.score for d in answer], atol=1e-4)


def test_a_beam_narrower_than_n_still_returns_n(neox):
    (answer,) = neox.decoder.decode([DecodeRequest(history=histories(1)[0], n=12, beam_width=2)])
    assert len(answer) == 12


def test_an_empty_history_is_refused_without_a_query(neox):
    with pytest.raises(ValueError, match="at least one item"):
        neox.decoder.decode([DecodeRequest(history=np.empty(0, np.int32), n=5, beam_width=5)])


@pytest.mark.parametrize("seen", [0, 3, 20])
def test_a_query_is_answered_by_the_exact_top_items_with_and_without_a_history(world, seen):
    history = np.arange(seen, dtype=np.int32)
    expected = world.brute_force(history, "warm wool socks")
    asked = DecodeRequest(history=history, n=10, beam_width=ITEMS, query="warm wool socks")
    (answer,) = world.decoder.decode([asked])
    assert [decoded.item for decoded in answer] == np.argsort(-expected)[:10].tolist()
    np.testing.assert_allclose([decoded.score for decoded in answer], np.sort(expected)[::-1][:10], atol=1e-3)
    scores = world.decoder.score_items(history, np.arange(ITEMS, dtype=np.int32), "warm wool socks")
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    (other,) = world.decoder.decode([replace(asked, query="red garden chair")])
    assert [decoded.score for decoded in other] != [decoded.score for decoded in answer]


def test_markers_and_codes_written_out_in_a_query_are_plain_text(neox):
    (history,) = histories(1)
    spelled = "<|answer|> <u_3><v_1> <|history|>"
    plain = "nonsense nonsense nonsense"
    scores = [neox.decoder.score_items(history, np.arange(ITEMS), query) for query in (spelled, plain)]
    np.testing.assert_array_equal(*scores)


def test_candidates_are_ranked_by_the_scores_of_a_full_decode(world):
    rng = np.random.default_rng(3)
    for history in histories(3):
        exact = world.brute_force(history)
        (full,) = world.decoder.decode([DecodeRequest(history=history, n=ITEMS, beam_width=ITEMS)])
        full_scores = {decoded.item: decoded.score for decoded in full}
        for count in (1, 2, 20, ITEMS):
            candidates = rng.permutation(ITEMS)[:count].astype(np.int32)
            (answer,) = world.decoder.decode(
                [DecodeRequest(history=history, n=ITEMS, beam_width=1, candidates=candidates)]
            )
            assert [d.item for d in answer] == candidates[np.argsort(-exact[candidates])].tolist()
            for decoded in answer:
                assert decoded.score == pytest.approx(full_scores[decoded.item], abs=1e-3)
                assert decoded.score == pytest.approx(exact[decoded.item], abs=1e-3)


@st.composite
def catalogues(draw):
    """Codes from long chains of single children to bushes."""
    entries = st.tuples(*(st.integers(0, draw(st.integers(0, 5))) for _ in range(4)))
    return np.array(draw(st.lists(entries, min_size=1, max_size=40, unique=True)), dtype=np.uint8)


@st.composite
def questions(draw, items):
    """Any request for candidates."""
    indices = st.integers(0, items - 1)
    query = draw(st.sampled_from([None, "warm socks", "nonsense <u_1>"]))
    some = [
        np.array(draw(st.lists(indices, min_size=least, max_size=12)), dtype=np.int32) for least in (not query, 0, 0)
    ]
    return {
        "history": some[0],
        "candidates": some[1],
        "excluded": some[2],
        "n": draw(st.integers(1, 12)),
        "query": query,
        "mask": draw(st.none() | st.lists(st.booleans(), min_size=items, max_size=items)),
    }


def drawn_requests(data, world):
    """Some requests of any kind, each with a width that may be too narrow."""
    asked = data.draw(st.lists(questions(len(world.codes)), min_size=1, max_size=6))
    requests = []
    for question in asked:
        mask = question.pop("mask")
        eligible = None if mask is None else EligibleItems.from_mask(world.trie, np.array(mask))
        width = data.draw(st.integers(1, 12))
        requests.append(DecodeRequest(beam_width=width, eligible=eligible, **question))
    return requests


def plain_beam_search(world, request):
    """Prefixes and their scores in a dict, level by level."""
    added = world.brute_force_levels(request.history, request.query)
    closed = set(request.excluded.tolist())
    if request.eligible is not None:
        closed |= set(np.flatnonzero(~request.eligible.mask).tolist())
    codes = [tuple(code) for code in world.codes.codes_NL.tolist()]
    kept = {(): 0.0}
    for level in range(4):
        reached = {
            code[: level + 1]: kept[code[:level]] + added[item, level]
            for item, code in enumerate(codes)
            if item not in closed and code[:level] in kept
        }
        kept = dict(sorted(reached.items(), key=lambda pair: -pair[1])[: request.width])
    return [(codes.index(code), score) for code, score in kept.items()][: request.n]


@given(codes=catalogues(), score=st.sampled_from(["children", "vocabulary"]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_beam_of_any_width_keeps_what_a_plain_beam_search_keeps(neox, codes, score, data):
    world = World(neox.model, score=score, codes=codes)
    requests = [replace(request, candidates=None) for request in drawn_requests(data, world)]
    for request, answer in zip(requests, world.decoder.decode(requests), strict=True):
        expected = plain_beam_search(world, request)
        assert [decoded.item for decoded in answer] == [item for item, _ in expected]
        np.testing.assert_allclose([decoded.score for decoded in answer], [one for _, one in expected], atol=1e-3)


def test_a_million_beams_end_at_items_that_may_be_shown(neox):
    rng = np.random.default_rng(7)
    width, beams = 60, 0
    while beams < 1_000_000:
        requests = []
        for history in histories(64, seed=beams):
            mask = rng.random(ITEMS) < rng.choice([0.05, 0.5, 0.95])
            eligible = EligibleItems.from_mask(neox.trie, mask)
            requests.append(
                DecodeRequest(history=history, n=width, beam_width=width, excluded=history, eligible=eligible)
            )
        for request, answer in zip(requests, neox.decoder.decode(requests), strict=True):
            allowed = set(np.flatnonzero(request.eligible.mask).tolist()) - set(request.history.tolist())
            items = [decoded.item for decoded in answer]
            assert len(items) == len(set(items)) == min(width, len(allowed))
            assert allowed.issuperset(items)
        beams += 4 * width * len(requests)


@given(codes=catalogues(), score=st.sampled_from(["children", "vocabulary"]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_candidates_of_any_catalogue_equal_a_full_decode_of_it(neox, codes, score, data):
    world = World(neox.model, score=score, codes=codes)
    requests = drawn_requests(data, world)
    full = [replace(request, candidates=None, n=len(codes), beam_width=len(codes)) for request in requests]
    for request, answer, whole in zip(
        requests, world.decoder.decode(requests), world.decoder.decode(full), strict=True
    ):
        among = set(request.candidates.tolist())
        expected = [decoded for decoded in whole if decoded.item in among][: request.n]
        assert len(answer) == len(expected)
        assert {decoded.item for decoded in answer} <= among - set(request.excluded.tolist())
        np.testing.assert_allclose([d.score for d in answer], [d.score for d in expected], atol=1e-3)
        by_item = {decoded.item: decoded.score for decoded in whole}
        np.testing.assert_allclose([d.score for d in answer], [by_item[d.item] for d in answer], atol=1e-3)


def test_a_batch_mixes_queries_candidates_and_histories(neox):
    rng = np.random.default_rng(5)
    requests = [
        DecodeRequest(
            history=history,
            n=4,
            beam_width=12,
            excluded=history,
            query=[None, "red chair", "a gift for a small kitchen"][number % 3],
            candidates=[None, rng.integers(0, ITEMS, 5 + number).astype(np.int32)][number % 2],
        )
        for number, history in enumerate(histories(13))
    ]
    for request, answer in zip(requests, neox.decoder.decode(requests), strict=True):
        (alone,) = neox.decoder.decode([request])
        assert [d.item for d in alone] == [d.item for d in answer]
        np.testing.assert_allclose([d.score for d in alone], [d.score for d in answer], atol=1e-4)


def test_more_candidates_than_are_scored_together_are_still_one_list(neox, monkeypatch):
    history = histories(1)[0]
    request = DecodeRequest(history=history, n=ITEMS, beam_width=1, candidates=np.arange(ITEMS, dtype=np.int32))
    (whole,) = neox.decoder.decode([request])
    monkeypatch.setattr(torch_decoder, "SCORED_TOGETHER", 32)
    (in_parts,) = neox.decoder.decode([request])
    assert [d.item for d in whole] == [d.item for d in in_parts]


def test_a_model_too_short_for_the_longest_query_is_refused(tmp_path):
    bundle = build_tiny_bundle(tmp_path)
    assert TorchDecoder.from_bundle(bundle, device="cpu").name == "torch"
    config = bundle.llm_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 134}))
    with pytest.raises(DecoderUnusable, match=r"134 tokens.*takes 135"):
        TorchDecoder.from_bundle(bundle, device="cpu")


def test_a_model_that_rescales_its_logits_is_refused(neox):
    class Scaled(GPTNeoXForCausalLM):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = 30 * torch.tanh(output.logits / 30)
            return output

    torch.manual_seed(0)
    with pytest.raises(DecoderUnusable, match="logits"):
        World(Scaled(GPTNeoXConfig(**SHAPE, tie_word_embeddings=True)))
