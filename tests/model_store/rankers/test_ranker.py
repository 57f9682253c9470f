"""What every ranker promises: the same scores however prompts go through the model."""

import numpy as np
import pytest
import torch

from model_store.rankers.ranker import Ranker, RankRequest
from model_store.rankers.user_keys import user_key
from tests.model_store.rankers.small_rankers import ARCHITECTURES, ITEMS, small_sail, small_sella, small_text_only


def requests() -> list[RankRequest]:
    random = np.random.default_rng(3)
    found = []
    for number, length in enumerate([0, 1, 3, 9, 2]):
        found.append(
            RankRequest(
                history=random.integers(0, ITEMS, length).astype(np.int32),
                candidates=random.permutation(ITEMS)[: 5 + number].astype(np.int32),
                user_key=user_key(f"user-{number}") if number else None,
            )
        )
    return found


def rankers() -> list[tuple[str, Ranker]]:
    made: list[tuple[str, Ranker]] = []
    for architecture in ARCHITECTURES:
        made += [
            (f"sella {architecture}", small_sella(architecture)),
            (f"text {architecture}", small_text_only(architecture)),
            (f"sail {architecture}", small_sail(architecture)),
        ]
    return [*made, ("sella without users", small_sella(tokens=("item",))), ("raw", small_sella(match_norm=False))]


@pytest.mark.parametrize(("name", "ranker"), rankers(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_shared_prefix_changes_no_score(name: str, ranker: Ranker) -> None:
    asked = requests()
    shared = ranker.rank(asked)
    alone = [
        np.concatenate(
            [
                ranker.rank(
                    [RankRequest(history=one.history, candidates=one.candidates[k : k + 1], user_key=one.user_key)],
                    share_prefix=False,
                )[0]
                for k in range(len(one.candidates))
            ]
        )
        for one in asked
    ]
    for together, each, request in zip(shared, alone, asked, strict=True):
        assert together.shape == request.candidates.shape
        np.testing.assert_allclose(together, each, atol=1e-4)
    assert np.concatenate(shared).std() > 1e-3


def test_order_and_number_of_candidates_change_no_score() -> None:
    ranker = small_sella()
    history = np.array([1, 2], dtype=np.int32)
    everything = np.tile(np.arange(ITEMS, dtype=np.int32), 10)
    scores = ranker.rank([RankRequest(history=history, candidates=everything[::-1].copy(), user_key=5)])[0][::-1]
    for start in range(0, len(everything), ITEMS):
        np.testing.assert_allclose(scores[start : start + ITEMS], scores[:ITEMS], atol=1e-4)


def test_the_same_request_has_the_same_scores_every_time() -> None:
    first, second = small_sella(), small_sella()
    for one, other in zip(first.rank(requests()), second.rank(requests()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nobody_and_nothing_are_answered_too() -> None:
    nothing = np.empty(0, dtype=np.int32)
    scores = small_sella().rank([RankRequest(history=nothing, candidates=nothing)])
    assert [len(found) for found in scores] == [0]
    assert small_sella().rank([]) == []


def test_scores_have_gradients_for_soft_tokens() -> None:
    ranker = small_sella()
    asked = requests()
    scores = ranker.scores(asked, [1, 3], [4, 5])
    assert scores.shape == (2,)
    np.testing.assert_allclose(
        scores.detach().numpy(),
        [
            ranker.rank(
                [RankRequest(history=asked[row].history, candidates=np.array([item]), user_key=asked[row].user_key)]
            )[0][0]
            for row, item in ((1, 4), (3, 5))
        ],
        atol=1e-4,
    )
    scores.sum().backward()
    for name in ("tables.users.weight", "tables.items.weight", "title_vectors.weight", "projector.0.weight"):
        gradient = dict(ranker.named_parameters())[name].grad
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name
    assert torch.equal(ranker.title_vectors.weight.grad.abs().sum(1).nonzero().flatten(), torch.tensor([4, 5]))
