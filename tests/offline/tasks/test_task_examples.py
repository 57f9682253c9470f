"""Examples of the tasks, of a shop where an example's history tells whose it is."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from model_store.errors import TesseraError
from model_store.instructions import NO, PARAPHRASES, YES
from model_store.prompts import ANSWER_TOKEN, ASK_TOKEN
from offline.tasks.examples import MAX_TEXT_TOKENS
from offline.tasks.item_texts import ItemTexts
from offline.tasks.task_mix import FAMILIES, TaskConfig
from tests.offline.tasks.conftest import ITEMS, OWN, make_catalog, make_shop, scratch_tokenizer

TEXT_FAMILIES = {"code_to_text", "history_to_title", "preference", "judge"}
HISTORY_FAMILIES = {"history_to_title", "query_with_history", "preference", "judge", "choose", "avoid"}


def draw(sampler, tokens=12_000, seed=1):
    return sampler.draw(tokens, np.random.default_rng(seed))


def test_the_response_is_exactly_the_code_of_its_item(shop):
    for example in draw(shop.sampler()):
        if example.item >= 0:
            response = example.tokens[example.response_start :]
            assert response.tolist() == shop.prompts.item_tokens_NL[example.item].tolist()
            assert example.family not in TEXT_FAMILIES


def test_a_response_in_words_ends_with_the_end_token_and_holds_no_code(shop):
    seen = set()
    for example in draw(shop.sampler()):
        if example.item < 0:
            response = example.tokens[example.response_start :]
            assert response[-1] == shop.prompts.tokenizer.eos_token_id
            assert 2 <= len(response) <= MAX_TEXT_TOKENS + 1
            assert shop.items_in(response) == []
            seen.add(example.family)
    assert seen == TEXT_FAMILIES


def test_a_prompt_asks_once_and_ends_where_the_response_starts(shop):
    ask, answer = shop.prompts.tokenizer.convert_tokens_to_ids([ASK_TOKEN, ANSWER_TOKEN])
    for example in draw(shop.sampler()):
        tokens = example.tokens.tolist()
        assert (tokens.count(ask), tokens.count(answer)) == (1, 1)
        assert tokens[example.response_start - 1] == answer


def test_no_example_is_longer_than_promised(shop):
    sampler = shop.sampler()
    assert max(len(example.tokens) for example in draw(sampler)) <= sampler.max_length


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_switched_off_and_drawn_alone(shop, family):
    rest = {example.family for example in draw(shop.sampler(**{family: 0.0}))}
    assert rest == set(FAMILIES) - {family}
    assert {example.family for example in draw(shop.only(family), 500)} == {family}


def test_without_any_family_nothing_is_drawn(shop):
    assert draw(shop.only()) == []


def test_families_are_drawn_by_weight(shop):
    weights = {family: float(at + 1) for at, family in enumerate(FAMILIES)}
    examples = draw(shop.sampler(**weights), 40_000)
    counts = Counter(example.family for example in examples)
    for family, weight in weights.items():
        share = weight / sum(weights.values())
        error = np.sqrt(share * (1 - share) / len(examples))
        assert abs(counts[family] / len(examples) - share) < 4 * error


@pytest.mark.parametrize("tokens", [1, 100, 3000])
def test_a_draw_stops_with_the_example_that_reaches_its_tokens(shop, tokens):
    examples = draw(shop.sampler(), tokens)
    drawn = sum(len(example.tokens) for example in examples)
    assert drawn - len(examples[-1].tokens) < tokens <= drawn


def test_the_same_generator_gives_the_same_examples_and_another_others(shop):
    def tokens(sampler, seed):
        return [example.tokens.tolist() for example in draw(sampler, 3000, seed)]

    # A second sampler, since the first has tokenised its texts by now.
    assert tokens(shop.sampler(), 1) == tokens(shop.sampler(), 1) != tokens(shop.sampler(), 2)
    assert tokens(shop.sampler(seed=7), 1) != tokens(shop.sampler(), 1)


def test_every_item_has_its_turn_before_one_has_a_second(shop):
    examples = draw(shop.only("text_to_code"), 10_000)
    assert len({example.item for example in examples[:ITEMS]}) == ITEMS


def test_a_prompts_history_is_the_start_of_its_users_training_history(shop):
    for example in draw(shop.only(*HISTORY_FAMILIES)):
        history, _ = shop.parts(example)
        own = shop.train[shop.user(example)]
        first = own.index(history[0])
        assert own[first : first + len(history)] == history
        assert len(history) <= shop.prompts.max_history


def test_no_held_out_item_is_ever_a_right_answer_for_its_user(shop):
    codes = Counter()
    for example in draw(shop.only("query_with_history", "choose")):
        assert example.item in shop.train[shop.user(example)]
        codes[example.family] += 1
    for example in draw(shop.only("history_to_title"), 10_000):
        own = {text for item in shop.train[shop.user(example)] for text in texts_of(shop.catalog, item)}
        assert any(text.startswith(shop.response(example)) for text in own)
    for example in draw(shop.only("titles_to_code")):
        assert example.item % OWN < OWN - 2
    assert min(codes.values()) > 50


def texts_of(catalog, item):
    return [text for text in (catalog.titles[item], catalog.texts[item]) if text]


def test_half_of_all_judgements_are_yes_and_each_is_true(shop):
    answers = Counter()
    for example in draw(shop.only("judge"), 20_000):
        _, (candidate,) = shop.parts(example)
        answer = shop.response(example)
        own = shop.user(example)
        assert candidate in shop.train[own] if answer == YES else candidate not in shop.whole[own]
        answers[answer] += 1
    assert set(answers) == {YES, NO}
    assert abs(answers[YES] / answers.total() - 0.5) < 4 * 0.5 / np.sqrt(answers.total())


@pytest.mark.parametrize("negatives", [1, 4])
def test_of_a_list_to_choose_from_only_the_answer_is_the_users(shop, negatives):
    places = Counter()
    for example in draw(shop.only("choose", negatives=negatives)):
        _, listed = shop.parts(example)
        own = shop.whole[shop.user(example)]
        assert [item for item in listed if item in own] == [example.item]
        assert len(set(listed)) == len(listed) == 1 + negatives
        places[listed.index(example.item)] += 1
    assert len(places) == 1 + negatives


def test_of_a_list_to_avoid_one_of_only_the_answer_is_unwanted(shop):
    places = Counter()
    for example in draw(shop.only("avoid")):
        history, listed = shop.parts(example)
        user = shop.user(example)
        assert example.item not in shop.whole[user]
        others = [item for item in listed if item != example.item]
        # Nobody shares items here, so the others are the user's own later ones.
        assert set(others) <= set(shop.train[user]) - set(history)
        assert 1 <= len(others) <= 4
        assert len(listed) == len(others) + 1
        places[listed.index(example.item)] += 1
    assert len(places) == 5


def test_a_list_to_avoid_one_of_is_filled_up_with_what_others_took_next():
    shop = make_shop()
    # After item 0 others took 1, 2 and 3; the last user takes 3 at the very end, held out.
    train = [[0, 1], [0, 2], [0, 3], [9, 0, 10]]
    whole = [[0, 1, 20, 21], [0, 2, 22, 23], [0, 3, 24, 25], [9, 0, 10, 3, 26]]
    sampler = replace(shop, whole=whole, train=train).only("avoid")
    filled = set()
    for example in draw(sampler, 5000):
        history, listed = shop.parts(example)
        if history == [9, 0]:
            filled |= set(listed) - {10, example.item}
            assert 10 in listed
            assert example.item not in {*whole[3], 1, 2}
    assert filled <= {1, 2}
    assert filled


def test_a_hard_negative_shares_a_prefix_with_the_right_answer(shop):
    first = shop.codes.codes_NL[:, 0]
    for example in draw(shop.only("choose", hard_negatives=1.0)):
        own = shop.whole[shop.user(example)]
        alike = {item for item in np.flatnonzero(first == first[example.item]).tolist() if item not in own}
        negatives = set(shop.parts(example)[1]) - {example.item}
        assert negatives <= alike


def test_a_preference_names_what_the_users_items_have_in_common():
    titles = [f"thing {n}" for n in range(ITEMS)]
    categories = [("Ink",) if n < OWN - 2 else ("Secret",) if n < OWN else ("Paper",) for n in range(ITEMS)]
    shop = make_shop(catalog=make_catalog(titles, None, categories))
    for example in draw(shop.only("preference")):
        expected = "ink, thing" if shop.user(example) == 0 else "paper, thing"
        assert set(shop.response(example).split(", ")) == set(expected.split(", "))


def test_the_titles_of_a_history_are_listed_oldest_first():
    shop = make_shop()
    decode = shop.prompts.tokenizer.decode
    for example in draw(shop.only("titles_to_code"), 5000):
        text = decode(example.tokens[: example.response_start])
        before = shop.train[example.item // OWN]
        before = before[: before.index(example.item)]
        titles = "; ".join(shop.catalog.titles[item] for item in before[-shop.prompts.max_history :])
        assert text.count(";") == titles.count(";")
        assert titles in text


@settings(max_examples=20, deadline=None)
@given(room=st.integers(1, 80))
def test_of_titles_that_do_not_fit_the_newest_are_listed(shop, room):
    texts = ItemTexts(shop.catalog, shop.prompts)
    history = np.array(shop.whole[0])
    listed = texts.titles(history, room)
    options = [texts.titles(history[-count:], 10_000) for count in range(1, len(history) + 1)]
    fitting = [option for option in options if len(option) <= room]
    assert listed == max(fitting, key=len, default=options[0])


def test_a_query_means_its_item_and_is_never_its_whole_title(shop):
    paraphrases = [template.replace("{text}", "") for template in PARAPHRASES["query_to_code"]]
    for example in draw(shop.only("query_to_code", "query_with_history")):
        words = shop.prompts.tokenizer.decode(example.tokens[: example.response_start - 1], skip_special_tokens=True)
        words = set(" ".join(words.split()).lower().replace("?", " ").split())
        title = set(shop.catalog.titles[example.item].split())
        assert not title <= words
        assert words - {word for text in paraphrases for word in text.split()}


def test_items_without_text_are_drawn_for_no_task_that_reads_it():
    titles = [f"blue thing {n}" if n % 2 else "" for n in range(ITEMS)]
    shop = make_shop(catalog=make_catalog(titles))
    for family in ("text_to_code", "query_to_code", "query_with_history"):
        assert {example.item % 2 for example in draw(shop.only(family), 3000)} == {1}
    for example in draw(shop.only("history_to_title", "preference"), 3000):
        assert shop.response(example)
    assert all(shop.items_in(example.tokens)[0] % 2 for example in draw(shop.only("code_to_text"), 3000))


def test_a_catalogue_without_text_leaves_the_tasks_that_need_none():
    shop = make_shop(lambda _: scratch_tokenizer(make_catalog(["some text"])), make_catalog([""] * ITEMS))
    assert set(shop.sampler().families) == {"judge", "choose", "avoid"}
    assert {example.family for example in draw(shop.sampler())} == {"judge", "choose", "avoid"}


def test_titles_that_spell_markers_and_codes_are_read_as_text():
    titles = [f"<|answer|> <u_17><v_1> thing <|ask|> {n}" for n in range(ITEMS)]
    shop = make_shop(catalog=make_catalog(titles, ["<|history|> <x_3>"] * ITEMS, [("<u_17>",)] * ITEMS))
    reserved = set(shop.prompts.tokenizer.convert_tokens_to_ids([ASK_TOKEN, ANSWER_TOKEN, "<|history|>"]))
    for example in draw(shop.sampler(titles_to_code=1.0)):
        history, asked = shop.parts(example)
        codes = 4 * (len(history) + len(asked) + (example.item >= 0))
        names = shop.prompts.tokenizer.convert_ids_to_tokens(example.tokens.tolist())
        assert (
            sum(name[:1] == "<" and name[1:3] in ("u_", "v_", "x_", "y_") and name[-1] == ">" for name in names)
            == codes
        )
        assert sum(int(token) in reserved for token in example.tokens) == 2 + bool(history)


def test_a_user_who_took_every_item_gets_no_negatives():
    shop = make_shop()
    everything = list(range(ITEMS))
    greedy = replace(shop, whole=[everything, [5, 7, 2, 3]], train=[everything[:-2], [5, 7]])
    for example in draw(greedy.only("judge", "choose", "avoid"), 3000):
        assert shop.parts(example)[0] == [5]
    assert replace(shop, whole=[everything], train=[everything[:-2]]).only("judge").families == ()


def test_histories_of_other_users_are_refused(shop):
    with pytest.raises(ValueError, match="users"):
        replace(shop, whole=shop.whole[:-1]).sampler()


def test_a_tokenizer_without_an_end_token_is_refused_where_answers_are_words():
    def without_end(catalog) -> PreTrainedTokenizerFast:
        tokenizer = scratch_tokenizer(catalog)
        tokenizer.eos_token = None
        return tokenizer

    shop = make_shop(without_end)
    with pytest.raises(TesseraError, match="end token"):
        shop.sampler()
    assert draw(shop.only("text_to_code", "choose"), 500)


def test_more_items_than_an_instruction_holds_are_refused(shop):
    with pytest.raises(TesseraError, match=r"tasks\.negatives"):
        shop.only("choose", negatives=40)
    assert draw(shop.only("judge", negatives=40), 500)


@pytest.mark.parametrize(
    "settings", [{"share": -1.0}, {"judge": -0.1}, {"avoid": float("nan")}, {"negatives": 0}, {"hard_negatives": 1.5}]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(TesseraError, match=next(iter(settings))):
        TaskConfig(**settings)
