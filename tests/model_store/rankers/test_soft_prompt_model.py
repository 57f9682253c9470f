"""Prompts with vectors in them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from model_store.rankers.soft_prompt import Slot, SoftPrompt, slot_keys
from tests.model_store.rankers.small_rankers import small_language_model


def prompts() -> list[SoftPrompt]:
    return [
        SoftPrompt.of([5, 6], Slot("item", 3), [7]),
        SoftPrompt.of(SoftPrompt.of([8], Slot("user", 1)), Slot("item", 0), Slot("item", 9), [4, 4]),
    ]


def test_vectors_stand_in_their_slots_and_words_in_theirs() -> None:
    model = small_language_model()
    soft = {"item": torch.arange(3.0)[:, None].repeat(1, 32) + 1, "user": torch.full((1, 32), 9.0)}
    assert slot_keys(prompts(), "item").tolist() == [3, 0, 9]
    for pad_left in (False, True):
        batch = model.embed(prompts(), soft, pad_left=pad_left)
        first = 2 if pad_left else 0
        assert batch.real_BT.sum(1).tolist() == [4, 6]
        assert batch.real_BT[0].tolist() == ([False] * 2 + [True] * 4 if pad_left else [True] * 4 + [False] * 2)
        assert batch.soft_BT.nonzero().tolist() == [[0, first + 2], [1, 1], [1, 2], [1, 3]]
        assert batch.vectors_BTH[0, first + 2].unique().tolist() == [1.0]
        assert [batch.vectors_BTH[1, at].unique().item() for at in (1, 2, 3)] == [9.0, 2.0, 3.0]
        words = model.model.get_input_embeddings().weight
        assert torch.equal(batch.vectors_BTH[0, first], words[5])


@pytest.mark.parametrize("soft", [{}, {"item": torch.zeros(2, 32), "user": torch.zeros(1, 32)}])
def test_a_vector_too_few_is_an_error(soft: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="slots of kind"):
        small_language_model().embed(prompts(), soft)


class Recorded:
    """Steering that only looks."""

    def __init__(self) -> None:
        self.seen: list[list[list[bool]]] = []

    @contextmanager
    def over(self, soft_BK: Tensor) -> Iterator[None]:
        self.seen.append(soft_BK.tolist())
        yield


def test_steering_is_told_of_every_key_also_of_those_in_the_cache() -> None:
    model = small_language_model()
    model.steering = steering = Recorded()
    soft = {"item": torch.zeros(1, 32)}
    prefix = model.prefill(model.embed([SoftPrompt.of([5], Slot("item", 0))], soft, pad_left=True))
    ending = model.embed([SoftPrompt.of(Slot("item", 1), [6])], soft)
    model.extend(prefix.rows(torch.tensor([0])), ending)
    model.hidden(ending)
    assert steering.seen == [[[False, True]], [[False, True, True, False]], [[True, False]]]


def test_a_prefix_serves_again_and_again() -> None:
    model = small_language_model()
    prefix = model.prefill(model.embed([SoftPrompt((5, 6)), SoftPrompt((7,))], {}, pad_left=True))
    ending = model.embed([SoftPrompt((8, 9))], {})
    first = model.extend(prefix.rows(torch.tensor([1])), ending)
    model.extend(prefix.rows(torch.tensor([0])), ending)
    again = model.extend(prefix.rows(torch.tensor([1])), ending)
    whole = model.hidden(model.embed([SoftPrompt((7, 8, 9))], {}))[:, 1:]
    assert torch.equal(first, again)
    torch.testing.assert_close(first, whole, atol=1e-4, rtol=0)
