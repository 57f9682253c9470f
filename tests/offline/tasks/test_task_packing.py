"""Rows of examples: nothing is lost, nothing overlaps, and the loss falls on responses only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.tasks.examples import TaskExample
from offline.tasks.packing import NO_EXAMPLE, pack
from offline.tasks.task_mix import FAMILIES

LEVELS, ROW, PAD = 4, 40, 7


@st.composite
def examples(draw, least=0):
    made = []
    for _ in range(draw(st.integers(least, 25))):
        is_code = draw(st.booleans())
        response = LEVELS if is_code else draw(st.integers(1, 10))
        prompt = draw(st.integers(1, ROW - response))
        tokens = np.random.default_rng(len(made)).integers(0, 99, prompt + response)
        item = draw(st.integers(0, 1000)) if is_code else -1
        made.append(TaskExample(draw(st.sampled_from(FAMILIES)), tokens.astype(np.int32), prompt, item))
    return made


@settings(max_examples=40, deadline=None)
@given(examples())
def test_unpacking_gives_back_each_example(made):
    batch = pack(made, ROW, PAD)
    assert batch.examples == made
    for number, (example, (row, column)) in enumerate(zip(made, batch.starts.tolist(), strict=True)):
        span = slice(column, column + len(example.tokens))
        assert batch.input_ids[row, span].tolist() == example.tokens.tolist()
        assert batch.position_ids[row, span].tolist() == list(range(len(example.tokens)))
        assert (batch.example_RT[row, span] == number).all()


@settings(max_examples=40, deadline=None)
@given(examples())
def test_examples_do_not_overlap_and_the_rest_is_padding(made):
    batch = pack(made, ROW, PAD)
    padding = batch.example_RT == NO_EXAMPLE
    assert (~padding).sum() == sum(len(example.tokens) for example in made)
    assert (batch.input_ids[padding] == PAD).all()
    assert (batch.position_ids[padding] == 0).all()


@settings(max_examples=40, deadline=None)
@given(examples(least=1))
def test_rows_are_no_longer_than_allowed_and_no_two_could_be_one(made):
    batch = pack(made, ROW, PAD)
    filled = np.sort((batch.example_RT != NO_EXAMPLE).sum(axis=1))
    assert batch.input_ids.shape[1] == filled[-1] <= ROW
    assert len(filled) == 1 or filled[0] + filled[1] > ROW


@settings(max_examples=40, deadline=None)
@given(examples())
def test_the_loss_falls_on_each_token_of_each_response_once_and_on_nothing_else(made):
    batch = pack(made, ROW, PAD)
    places = np.concatenate([batch.code_places.ravel(), batch.text_places])
    width = batch.input_ids.shape[1]
    expected = [
        row * width + column + at - 1
        for example, (row, column) in zip(made, batch.starts.tolist(), strict=True)
        for at in range(example.response_start, len(example.tokens))
    ]
    assert sorted(places.tolist()) == sorted(expected)
    assert len(set(expected)) == len(expected)


@settings(max_examples=40, deadline=None)
@given(examples())
def test_the_place_before_a_token_is_asked_for_it(made):
    batch = pack(made, ROW, PAD)
    tokens, owner = batch.input_ids.ravel(), batch.example_RT.ravel()
    assert (tokens[batch.text_places + 1] == batch.text_targets).all()
    assert (owner[batch.text_places] == batch.text_example).all()
    for number, item, places in zip(batch.code_example, batch.code_item, batch.code_places, strict=True):
        assert made[number].item == item
        assert tokens[places + 1].tolist() == made[number].tokens[-LEVELS:].tolist()
        assert (owner[places] == number).all()


@settings(max_examples=40, deadline=None)
@given(examples())
def test_every_response_knows_its_family(made):
    batch = pack(made, ROW, PAD)
    for numbers, families in ((batch.code_example, batch.code_family), (batch.text_example, batch.text_family)):
        assert [made[number].family for number in numbers] == [FAMILIES[family] for family in families]


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="41 tokens"):
        pack([TaskExample("judge", np.zeros(41, np.int32), 39, -1)], ROW, PAD)
