"""The torch decoder against brute force: every item scored by a plain forward pass of the whole sequence."""

import numpy as np
import pytest
import torch
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
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import DecoderUnusable
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import EligibleItems, PrefixTrie
from model_store.prompts import PromptEncoder

ITEMS = 120
VOCABULARY = 1024 + 8
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

    def __init__(self, model, score="children"):
        rng = np.random.default_rng(0)
        codes = np.unique(rng.integers(0, [12, 6, 5, 9], (ITEMS * 2, 4)).astype(np.uint8), axis=0)
        self.codes = ItemCodes(rng.permutation(codes)[:ITEMS])
        self.trie = PrefixTrie.build(self.codes)
        self.tokens = CodeTokens((np.arange(1024) + 8).reshape(4, 256).astype(np.int32))
        self.prompts = PromptEncoder((1,), self.tokens.of_items(self.codes), max_history=20)
        self.model = model.eval()
        self.score = score
        self.decoder = TorchDecoder(model, self.tokens, self.prompts, self.trie, batch_size=4, score=score)

    def brute_force(self, history):
        prompt = self.prompts.sequential(history)
        whole = np.concatenate([np.repeat(prompt[None], ITEMS, 0), self.prompts.item_tokens_NL], axis=1)
        with torch.no_grad():
            logits = self.model(input_ids=torch.from_numpy(whole.astype(np.int64))).logits[:, len(prompt) - 1 : -1]
        codes = self.codes.codes_NL
        scores = np.zeros(ITEMS)
        for item in range(ITEMS):
            for level in range(4):
                if self.score == "vocabulary":
                    tokens = np.arange(VOCABULARY)
                else:
                    siblings = codes[(codes[:, :level] == codes[item, :level]).all(axis=1), level]
                    tokens = self.tokens.ids_LC[level][np.unique(siblings)]
                log_probs = logits[item, level, torch.from_numpy(tokens.astype(np.int64))].log_softmax(-1)
                scores[item] += log_probs[np.searchsorted(tokens, self.prompts.item_tokens_NL[item, level])].item()
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


def test_an_empty_history_is_refused(neox):
    with pytest.raises(ValueError, match="at least one item"):
        neox.decoder.decode([DecodeRequest(history=np.empty(0, np.int32), n=5, beam_width=5)])


def test_a_model_that_rescales_its_logits_is_refused(neox):
    class Scaled(GPTNeoXForCausalLM):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = 30 * torch.tanh(output.logits / 30)
            return output

    torch.manual_seed(0)
    with pytest.raises(DecoderUnusable, match="logits"):
        World(Scaled(GPTNeoXConfig(**SHAPE, tie_word_embeddings=True)))
