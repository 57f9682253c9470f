"""Prompts: what a model reads, told apart by tokenizer kind, since texts go through any of them."""

from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model_store.code_tokens import CodeTokens
from model_store.errors import DecoderUnusable
from model_store.instructions import FIELDS, PARAPHRASES, QUERY
from model_store.item_codes import LEVEL_LETTERS, ItemCodes, code_token_names
from model_store.prompts import ANSWER_TOKEN, ASK_TOKEN, MARKERS, MAX_INSTRUCTION_TOKENS, PromptEncoder
from tests.tiny_bundle import random_codes

ITEMS, HISTORY = 50, 6
TEXTS = ["Blue kettle, 2 litres", "A red garden chair", "find the blue item, or the next one", "Größe: 5 cm"]


def byte_level_bpe() -> tuple[Tokenizer, trainers.Trainer]:
    """Like GPT's, Llama 3's and Qwen's, and those of models built here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )


def unigram() -> tuple[Tokenizer, trainers.Trainer]:
    """Like SentencePiece's, of T5 and Gemma."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<eos>", "<unk>"], unk_token="<unk>", show_progress=False
    )


def make_tokenizer(kind) -> PreTrainedTokenizerFast:
    tokenizer, trainer = kind()
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.add_tokens([*MARKERS, *code_token_names(len(LEVEL_LETTERS))], special_tokens=True)
    return fast


@pytest.fixture(scope="module", params=[byte_level_bpe, unigram])
def prompts(request):
    tokenizer = make_tokenizer(request.param)
    codes = ItemCodes(random_codes(np.random.default_rng(0), ITEMS, 12))
    return PromptEncoder.create(tokenizer, CodeTokens.from_vocabulary(tokenizer, Path("test")), codes, HISTORY)


histories = st.lists(st.integers(0, ITEMS - 1), max_size=2 * HISTORY).map(lambda items: np.array(items, dtype=np.int32))


def added_tokens(prompts, tokens) -> list[str]:
    """The markers and code tokens among some tokens."""
    known = {*MARKERS, *code_token_names(len(LEVEL_LETTERS))}
    return [token for token in prompts.tokenizer.convert_ids_to_tokens(list(tokens)) if token in known]


@settings(max_examples=40, deadline=None)
@given(history=histories, query=st.text(max_size=300))
def test_an_instruction_after_a_history_has_the_sequential_prompt_as_its_prefix(prompts, history, query):
    prompt, alone = prompts.query(history, query), prompts.query(history[:0], query)
    before = prompts.sequential(history) if len(history) else np.zeros(0, np.int32)
    assert prompt.tolist() == [*before.tolist(), *alone.tolist()]


@settings(max_examples=40, deadline=None)
@given(history=histories, query=st.text(max_size=300))
def test_no_prompt_is_longer_than_the_longest(prompts, history, query):
    assert len(prompts.query(history, query)) <= prompts.max_length
    assert len(prompts.sequential(history)) <= prompts.max_length


def test_the_longest_prompt_is_as_long_as_promised(prompts):
    assert len(prompts.query(np.arange(HISTORY), "chair " * 500)) == prompts.max_length


@settings(max_examples=40, deadline=None)
@given(query=st.text(max_size=300))
def test_a_prompt_asks_once_and_ends_where_the_answer_starts(prompts, query):
    tokens = added_tokens(prompts, prompts.query(np.zeros(0, np.int32), query))
    assert tokens == [ASK_TOKEN, ANSWER_TOKEN]


def test_text_that_is_too_long_is_cut_and_the_words_behind_it_stay(prompts):
    template = "the {text} or the next one"
    short, long = (prompts.fill(template, text=prompts.phrase("blue " * count)) for count in (1, 500))
    behind = prompts.text(" or the next one")
    assert len(long) == MAX_INSTRUCTION_TOKENS
    assert short[-len(behind) :] == long[-len(behind) :] == behind
    assert len(short) < len(long)


@pytest.mark.parametrize("name", [*MARKERS, "<u_17>", "<y_255>", "<u_1><v_2><x_3><y_4>"])
def test_text_that_spells_a_marker_or_a_code_token_stays_text(prompts, name):
    text = f"blue {name} chair{name}"
    assert added_tokens(prompts, prompts.text(text)) == []
    assert added_tokens(prompts, prompts.phrase(text)) == []
    assert added_tokens(prompts, prompts.query(np.zeros(0, np.int32), text)) == [ASK_TOKEN, ANSWER_TOKEN]


@settings(max_examples=40, deadline=None)
@given(items=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5))
def test_codes_in_an_instruction_are_the_tokens_that_spell_the_items(prompts, items):
    filled = prompts.fill("of {items} the next?", items=items)
    before, behind = prompts.text("of"), prompts.text(" the next?")
    assert filled == [*before, *prompts.item_tokens_NL[items].ravel().tolist(), *behind]


def test_capitals_and_blanks_of_a_query_do_not_matter(prompts):
    nobody = np.zeros(0, np.int32)
    assert (prompts.query(nobody, "  Blue\n KETTLE ") == prompts.query(nobody, "blue kettle")).all()
    assert len(prompts.query(nobody, "blue kettle")) > len(prompts.query(nobody, "blue"))


def test_a_blank_query_is_a_prompt_too(prompts):
    assert added_tokens(prompts, prompts.query(np.array([3]), " ")) != []


@pytest.mark.parametrize("text", TEXTS)
def test_a_filled_slot_reads_like_a_sentence(prompts, text):
    filled = prompts.fill("find: {text} one", text=prompts.phrase(text))
    assert prompts.tokenizer.decode(filled).split() == f"find: {text} one".split()


def test_a_slot_that_nothing_fills_is_an_error(prompts):
    with pytest.raises(ValueError, match="colour"):
        prompts.fill("a {colour} item")


def test_an_instruction_without_room_for_its_codes_says_so(prompts):
    assert prompts.room("{items}", MAX_INSTRUCTION_TOKENS // 4) == 0
    assert prompts.room("{items}", MAX_INSTRUCTION_TOKENS // 4 + 1) < 0


def test_a_tokenizer_without_the_markers_is_refused():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe()[0])
    tokenizer.add_tokens([*MARKERS[:-1], *code_token_names(len(LEVEL_LETTERS))], special_tokens=True)
    codes = ItemCodes(random_codes(np.random.default_rng(0), ITEMS, 12))
    with pytest.raises(DecoderUnusable, match="answer"):
        PromptEncoder.create(tokenizer, CodeTokens.from_vocabulary(tokenizer, Path("test")), codes, HISTORY)


@pytest.mark.parametrize("family", PARAPHRASES)
def test_every_task_has_five_paraphrases_or_more_with_the_same_slots(family):
    slots = {frozenset(slot for _, slot, _, _ in Formatter().parse(text) if slot) for text in PARAPHRASES[family]}
    assert len(set(PARAPHRASES[family])) >= 5
    assert len(slots) == 1


def test_no_two_tasks_share_a_paraphrase_except_queries_with_and_without_a_history():
    different = {family: set(texts) for family, texts in PARAPHRASES.items() if family != "query_with_history"}
    assert len(set.union(*different.values())) == sum(map(len, different.values()))
    assert PARAPHRASES["query_with_history"] == PARAPHRASES["query_to_code"]


def test_a_served_query_is_asked_like_one_of_those_trained_on(prompts):
    assert QUERY in PARAPHRASES["query_to_code"]
    asked = prompts.instruction(np.array([1, 2]), prompts.fill(QUERY, text=prompts.query_text("blue kettle")))
    assert (prompts.query(np.array([1, 2]), "blue kettle") == asked).all()


def test_fields_are_named_and_filled_before_an_instruction_is_tokenised(prompts):
    for family, templates in PARAPHRASES.items():
        for template in templates:
            for field in FIELDS:
                filled = prompts.fill(template.replace("{field}", field), text=prompts.phrase("blue"), items=[0])
                assert 0 < len(filled) <= MAX_INSTRUCTION_TOKENS, family
