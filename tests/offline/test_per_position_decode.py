"""The per-position search against scores of all sequences, and against transformers' own beam search."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.checkpoint import load_language_model
from model_store.decoders.language_model import HuggingFaceModel
from model_store.prompts import PromptEncoder
from offline.per_position_decode import BEAMS, PerPositionDecoder
from tests.tiny_bundle import build_tiny_bundle

HISTORIES = [np.array(items, dtype=np.int32) for items in ([7], [1, 2, 3], [5, 5, 9, 11, 0, 2, 3, 4, 1, 8])]


@pytest.fixture(scope="module", params=["gpt-neox", "qwen3"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("store")
    return build_tiny_bundle(folder, items=30, first_level=5, hidden=128, architecture=request.param)


@pytest.fixture(scope="module")
def checkpoint(bundle: Bundle) -> object:
    return load_language_model(bundle, torch.float32).eval()


def in_use(bundle: Bundle) -> list[list[int]]:
    return [np.unique(bundle.item_codes.codes_NL[:, level]).tolist() for level in range(4)]


def decoder_of(bundle: Bundle, checkpoint: object, **settings: int) -> PerPositionDecoder:
    tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path)
    prompts = PromptEncoder.create(tokenizer, code_tokens(bundle), bundle.item_codes, bundle.manifest.max_history)
    settings = {"batch_size": 2} | settings
    return PerPositionDecoder(HuggingFaceModel(checkpoint), code_tokens(bundle), prompts, bundle.item_codes, **settings)


def code_tokens(bundle: Bundle) -> CodeTokens:
    return CodeTokens.from_vocabulary(AutoTokenizer.from_pretrained(bundle.llm_path), bundle.llm_path)


@torch.inference_mode()
def every_sequence(bundle: Bundle, checkpoint, decoder, history) -> tuple[np.ndarray, np.ndarray]:
    """All tuples of tokens in use and the score of each, from plain forward passes over whole sequences."""
    used, tokens = in_use(bundle), code_tokens(bundle).ids_LC
    tuples = np.array(list(product(*used)), dtype=np.uint8)
    prompt = decoder._prompts.sequential(history)
    spelled = tokens[np.arange(4), tuples]
    inputs = torch.from_numpy(np.concatenate([np.tile(prompt, (len(tuples), 1)), spelled], axis=1)).long()
    logits = checkpoint(input_ids=inputs).logits[:, len(prompt) - 1 : -1]
    total = np.zeros(len(tuples))
    for level, entries in enumerate(used):
        allowed = torch.from_numpy(tokens[level][entries]).long()
        log_probs = logits[:, level, allowed].log_softmax(-1)
        own = torch.from_numpy(np.searchsorted(entries, tuples[:, level]))
        total += log_probs.gather(1, own[:, None])[:, 0].numpy()
    return tuples, total


def test_with_room_for_all_it_returns_every_sequence_in_the_order_of_its_score(bundle, checkpoint):
    count = int(np.prod([len(entries) for entries in in_use(bundle)]))
    assert count > len(bundle.item_codes) * 5
    decoder = decoder_of(bundle, checkpoint, beams=count + 1)
    for history, found in zip(HISTORIES, decoder.decode(HISTORIES), strict=True):
        tuples, scores = every_sequence(bundle, checkpoint, decoder, history)
        assert len(found.codes_KL) == count
        assert (np.diff(found.scores_K) <= 0).all()
        score_of = dict(zip(map(tuple, tuples.tolist()), scores.tolist(), strict=True))
        assert set(map(tuple, found.codes_KL.tolist())) == set(score_of)
        expected = [score_of[tuple(code)] for code in found.codes_KL.tolist()]
        assert found.scores_K == pytest.approx(expected, abs=1e-3)


def test_a_beam_follows_the_best_at_each_level(bundle, checkpoint):
    """Written out with sets: a prefix survives if it is among the best of its level."""
    beams = 4
    decoder = decoder_of(bundle, checkpoint, beams=beams)
    used, tokens = in_use(bundle), code_tokens(bundle).ids_LC
    for history, found in zip(HISTORIES, decoder.decode(HISTORIES), strict=True):
        prompt = decoder._prompts.sequential(history).tolist()
        alive: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for level, entries in enumerate(used):
            reached = []
            for score, prefix in alive:
                spelled = [int(tokens[above, entry]) for above, entry in enumerate(prefix)]
                with torch.inference_mode():
                    logits = checkpoint(input_ids=torch.tensor([prompt + spelled])).logits[0, -1]
                log_probs = logits[torch.from_numpy(tokens[level][entries]).long()].log_softmax(-1).tolist()
                reached += [(score + one, (*prefix, entry)) for one, entry in zip(log_probs, entries, strict=True)]
            alive = sorted(reached, reverse=True)[:beams]
        assert [tuple(code) for code in found.codes_KL.tolist()] == [code for _, code in alive]
        assert found.scores_K == pytest.approx([score for score, _ in alive], abs=1e-3)


def test_transformers_own_beam_search_returns_the_same_sequences(bundle, checkpoint):
    decoder = decoder_of(bundle, checkpoint)
    tokens = code_tokens(bundle).ids_LC
    allowed = [tokens[level][entries].tolist() for level, entries in enumerate(in_use(bundle))]
    for history, found in zip(HISTORIES, decoder.decode(HISTORIES), strict=True):
        prompt = torch.from_numpy(decoder._prompts.sequential(history)).long()[None]
        sequences = checkpoint.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=4,
            num_beams=BEAMS,
            num_return_sequences=BEAMS,
            do_sample=False,
            length_penalty=0.0,
            renormalize_logits=True,
            eos_token_id=None,
            prefix_allowed_tokens_fn=lambda _, sequence, start=prompt.shape[1]: allowed[len(sequence) - start],
        )
        assert sequences[:, prompt.shape[1] :].tolist() == tokens[np.arange(4), found.codes_KL].tolist()


def test_an_untrained_model_returns_codes_of_no_item(bundle, checkpoint):
    items = [bundle.item_codes.items_of(found.codes_KL) for found in decoder_of(bundle, checkpoint).decode(HISTORIES)]
    assert [len(one) for one in items] == [BEAMS] * len(HISTORIES)
    assert all((one < 0).any() for one in items)


def test_batches_do_not_change_the_answer(bundle, checkpoint):
    alone = decoder_of(bundle, checkpoint, batch_size=1).decode(HISTORIES)
    together = decoder_of(bundle, checkpoint, batch_size=3).decode(HISTORIES)
    for one, other in zip(alone, together, strict=True):
        assert one.codes_KL.tolist() == other.codes_KL.tolist()
        assert one.scores_K == pytest.approx(other.scores_K, abs=1e-3)


def test_fewer_sequences_than_beams_are_all_returned(tmp_path: Path):
    codes = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [1, 9, 3, 5]], dtype=np.uint8)
    few = build_tiny_bundle(tmp_path, items=3, codes=codes)
    model = HuggingFaceModel(load_language_model(few, torch.float32))
    (found,) = PerPositionDecoder.of_bundle(few, model).decode([np.array([0], dtype=np.int32)])
    assert sorted(map(tuple, found.codes_KL.tolist())) == [(1, 2, 3, 4), (1, 2, 3, 5), (1, 9, 3, 4), (1, 9, 3, 5)]
    assert sorted(few.item_codes.items_of(found.codes_KL).tolist()) == [-1, 0, 1, 2]
