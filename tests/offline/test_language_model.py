"""Models to train: built from a config, or a checkpoint that somebody else wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.item_codes import code_token_names
from model_store.prompts import MARKERS
from offline.language_model import LanguageModelConfig, build_language_model

ITEMS = 40


@pytest.fixture
def catalog():
    return Catalog(
        item_ids=tuple(f"i{n}" for n in range(ITEMS)),
        titles=tuple(f"Blue kettle number {n}" for n in range(ITEMS)),
        texts=("Boils water.",) * ITEMS,
        categories=(("Kitchen",),) * ITEMS,
        prices=np.full(ITEMS, np.nan, np.float32),
        attributes=({},) * ITEMS,
        available=np.ones(ITEMS, bool),
    )


@pytest.fixture
def codebooks():
    codebooks = np.zeros((4, 256, 16), dtype=np.float32)
    codebooks[:, :8] = np.random.default_rng(0).normal(size=(4, 8, 16)) * np.array([1, 0.5, 0.2, 0.1])[:, None, None]
    codebooks[0, 1] = codebooks[0, 0] * 1.01
    return codebooks


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A foreign checkpoint: another architecture, untied embeddings, a tokenizer without code tokens."""
    words = ["<unk>", "blue", "kettle", "water"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path)
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    return str(tmp_path)


def build(catalog, codebooks, llm, *, projected=None, **settings):
    config = LanguageModelConfig(llm=llm, **({"text_vocabulary": 300} | settings))
    return build_language_model(catalog, codebooks, config, max_positions=64, seed=0, token_vectors_LCH=projected)


def test_a_foreign_checkpoint_gets_the_tokens_it_needs_and_keeps_its_own(catalog, codebooks, checkpoint):
    before = AutoModelForCausalLM.from_pretrained(checkpoint).get_input_embeddings().weight.detach().clone()
    model, tokenizer = build(catalog, codebooks, checkpoint)
    vocabulary = tokenizer.get_vocab()
    assert {*MARKERS, *code_token_names(4)} <= set(vocabulary)
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)
    torch.testing.assert_close(model.get_input_embeddings().weight[: len(before)].detach(), before)


@pytest.mark.parametrize("llm", ["scratch:tiny", "checkpoint"])
def test_code_tokens_start_where_their_centroids_are(catalog, codebooks, checkpoint, llm):
    model, tokenizer = build(catalog, codebooks, checkpoint if llm == "checkpoint" else llm)
    rows = torch.tensor(tokenizer.convert_tokens_to_ids([f"<u_{n}>" for n in range(8)]))
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        vectors = torch.nn.functional.normalize(table[rows].detach(), dim=-1)
        similarity = vectors @ vectors.T
        assert similarity[0, 1] > 0.9
        assert similarity[0, 2:].abs().max() < 0.9


def test_random_start_is_selectable(catalog, codebooks):
    model, tokenizer = build(catalog, codebooks, "scratch:tiny", token_start="random")
    rows = torch.tensor(tokenizer.convert_tokens_to_ids(["<u_0>", "<u_1>"]))
    vectors = torch.nn.functional.normalize(model.get_input_embeddings().weight[rows].detach(), dim=-1)
    assert (vectors[0] @ vectors[1]).abs() < 0.7


def code_rows(model, tokenizer, level, entries):
    ids = tokenizer.convert_tokens_to_ids([f"<{'uvxy'[level]}_{entry}>" for entry in entries])
    return model.get_input_embeddings().weight[torch.tensor(ids)].detach()


def projection(codebooks, hidden):
    """What an alignment may have made of the codebooks, at a scale of its own."""
    matrix = np.random.default_rng(1).normal(size=(codebooks.shape[2], hidden))
    return (50 * codebooks @ matrix).astype(np.float32)


def test_projected_tokens_start_where_the_projection_puts_them_as_long_as_words_are(catalog, codebooks, checkpoint):
    words = AutoModelForCausalLM.from_pretrained(checkpoint).get_input_embeddings().weight.detach()
    projected = projection(codebooks, hidden=32)
    model, tokenizer = build(catalog, codebooks, checkpoint, projected=projected, token_start="projection")
    used = [code_rows(model, tokenizer, level, range(8)) for level in range(4)]
    for level in (0, 1):
        start = torch.from_numpy(projected[level, :8])
        assert torch.nn.functional.cosine_similarity(used[level], start).min() > 0.9
    assert torch.cat(used).norm(dim=-1).mean().item() == pytest.approx(words.norm(dim=-1).mean().item(), rel=0.1)


def test_a_projection_to_another_size_keeps_its_angles(catalog, codebooks):
    projected = projection(codebooks, hidden=48)
    model, tokenizer = build(catalog, codebooks, "scratch:tiny", projected=projected, token_start="projection")
    rows, start = code_rows(model, tokenizer, 0, range(8)), torch.from_numpy(projected[0, :8])
    similarity, expected = (torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1) for x in (rows, start))
    torch.testing.assert_close(similarity, expected, atol=0.15, rtol=0)


def test_entries_that_are_not_in_use_start_like_any_new_token(catalog, codebooks):
    projected = projection(codebooks, hidden=64) + 100.0
    start, tokenizer = build(catalog, codebooks, "scratch:tiny", token_start="random")
    model, _ = build(catalog, codebooks, "scratch:tiny", projected=projected, token_start="projection")
    unused = range(8, 256)
    assert torch.equal(code_rows(model, tokenizer, 2, unused), code_rows(start, tokenizer, 2, unused))


def test_codes_without_a_projection_cannot_start_from_it(catalog, codebooks):
    with pytest.raises(TesseraError, match=r"token_start=projection.*language_model\.token_start=codebook"):
        build(catalog, codebooks, "scratch:tiny", token_start="projection")


def test_a_scratch_model_reads_the_words_of_instructions_whole(catalog, codebooks):
    _, tokenizer = build(catalog, codebooks, "scratch:tiny", text_vocabulary=2048)
    for words in ("description", "write the", "which item is this?", " title", " yes"):
        assert len(tokenizer(words).input_ids) == len(words.replace("?", " ?").split()), words
    assert len(tokenizer("refrigerator").input_ids) > 2, "words that nobody says are in pieces"


def test_every_code_token_is_one_token_of_the_tokenizer(catalog, codebooks):
    _, tokenizer = build(catalog, codebooks, "scratch:tiny")
    assert len(tokenizer("<u_17><v_203><x_5><y_91>").input_ids) == 4
    assert tokenizer.decode(tokenizer("Blue kettle").input_ids) == "Blue kettle"


def test_a_checkpoint_that_cannot_be_loaded_is_named(catalog, codebooks, tmp_path):
    with pytest.raises(TesseraError, match=r"language_model\.llm .*nothing-here"):
        build(catalog, codebooks, str(tmp_path / "nothing-here"))


def test_a_checkpoint_that_reads_too_little_is_refused(catalog, codebooks, checkpoint):
    config = LanguageModelConfig(llm=checkpoint)
    with pytest.raises(TesseraError, match="reads 64 tokens, histories take 200; lower max_history"):
        build_language_model(catalog, codebooks, config, max_positions=200, seed=0)
