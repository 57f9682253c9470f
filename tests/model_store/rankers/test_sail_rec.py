"""SAILRec's tokens: three of a user, one of an item; what the Q-Former reads; and a ranker from files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker, save_ranker
from model_store.rankers.sail_rec import USER_KINDS, SailRecRanker
from model_store.rankers.user_keys import user_key
from model_store.rankers.user_query_former import UserQueryFormer
from tests.model_store.rankers.small_rankers import ARCHITECTURES, ITEMS, small_catalog, small_sail


def asked(*histories: list[int], items: int = ITEMS) -> list[RankRequest]:
    candidates = np.arange(items, dtype=np.int32)
    return [
        RankRequest(history=np.array(history, np.int32), candidates=candidates, user_key=user_key(f"user-{number}"))
        for number, history in enumerate(histories)
    ]


def test_the_query_former_gives_each_user_its_tokens_whatever_stands_beside_it() -> None:
    torch.manual_seed(0)
    former = UserQueryFormer(size=8, hidden=20, queries=3, width=16, blocks=2, heads=4, norm=1.7).eval()
    rows = torch.randn(4, 6, 8)
    real = torch.arange(6) < torch.tensor([1, 6, 3, 2])[:, None]
    with torch.no_grad():
        tokens = former(rows, real)
        assert tokens.shape == (4, 3, 20)
        torch.testing.assert_close(tokens.norm(dim=-1), torch.full((4, 3), 1.7), atol=1e-3, rtol=1e-3)
        for user, length in enumerate((1, 6, 3, 2)):
            alone = former(rows[user : user + 1, :length], torch.ones(1, length, dtype=torch.bool))[0]
            torch.testing.assert_close(tokens[user], alone, atol=1e-5, rtol=1e-5)
        # Liked items have no order; the user's own row is another matter.
        turned = former(rows[1:2, [0, 3, 2, 1, 5, 4]], real[1:2])[0]
        torch.testing.assert_close(turned, tokens[1], atol=1e-5, rtol=1e-5)
        former.of_user.normal_()
        changed = former(rows[1:2, [1, 0, 2, 3, 4, 5]], real[1:2])[0]
        assert (changed - former(rows[1:2], real[1:2])[0]).abs().max() > 1e-3


def test_prompts_have_three_tokens_of_the_user_and_one_of_the_item() -> None:
    ranker = small_sail()
    one, other = asked([1, 2, 3, 4, 5], [])
    users = [ranker.user_part(request, row) for row, request in enumerate((one, other))]
    part = ranker.candidate_part(one, 0, 4)
    soft = ranker.soft_tokens([one, other], [users[1] + part, users[0] + part, users[1]])
    assert {kind: len(vectors) for kind, vectors in soft.items()} == dict.fromkeys(USER_KINDS, 3) | {"item": 2}
    with torch.no_grad():
        own = ranker.user_tokens([one, other])
    assert own.shape == (2, 3, ranker.language_model.hidden_size)
    for number, kind in enumerate(USER_KINDS):
        torch.testing.assert_close(soft[kind], own[[1, 0, 1], number], atol=1e-5, rtol=1e-5)
    assert ranker.soft_tokens([one], [part]).keys() == {"item"}


@pytest.mark.parametrize("liked", [0, 3])
def test_only_the_newest_liked_items_are_read(liked: int) -> None:
    ranker = small_sail(liked=liked)
    with torch.no_grad():
        same = [ranker.user_tokens(asked(history))[0] for history in ([9, 1, 2, 3], [8, 7, 1, 2, 3])]
        other = ranker.user_tokens(asked([9, 1, 2, 4]))[0]
        nothing = ranker.user_tokens(asked([]))[0]
    torch.testing.assert_close(same[0], same[1])
    assert ((other - same[0]).abs().max() > 1e-4) == (liked > 0)
    assert ((nothing - same[0]).abs().max() > 1e-4) == (liked > 0)


def test_steering_changes_scores_and_a_neutral_pattern_does_not() -> None:
    scores = {pattern: small_sail(pattern=pattern).rank(asked([1, 2]))[0] for pattern in ("SNE", "NNN", "ENS")}
    assert np.abs(scores["SNE"] - scores["NNN"]).max() > 1e-3
    assert np.abs(scores["SNE"] - scores["ENS"]).max() > 1e-3
    unsteered = small_sail()
    unsteered.language_model.steering = None
    np.testing.assert_array_equal(unsteered.rank(asked([1, 2]))[0], scores["NNN"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_comes_back_from_its_files_steering_and_all(tmp_path: Path, architecture: str) -> None:
    ranker = small_sail(architecture)
    save_ranker(tmp_path / "ranker", ranker)
    loaded = load_ranker(tmp_path / "ranker", small_catalog())
    assert isinstance(loaded, SailRecRanker)
    assert loaded.config == ranker.config
    assert loaded.steering.biases == ranker.steering.biases == (-2.0, 2.0)
    requests = asked([1, 5, 2], [])
    for one, other in zip(loaded.rank(requests), ranker.rank(requests), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert "tessera_steered" not in (tmp_path / "ranker" / "llm" / "config.json").read_text()


def test_new_items_have_the_mean_vector_and_old_ones_score_as_before(tmp_path: Path) -> None:
    ranker = small_sail()
    save_ranker(tmp_path / "ranker", ranker)
    grown = load_ranker(tmp_path / "ranker", small_catalog(ITEMS + 4))
    assert isinstance(grown, SailRecRanker)
    before = ranker.rank(asked([1, 2]))[0]
    after = grown.rank(asked([1, ITEMS + 2], items=ITEMS + 4))[0]
    assert np.isfinite(after).all()
    np.testing.assert_allclose(grown.rank(asked([1, 2], items=ITEMS + 4))[0][:ITEMS], before, atol=1e-4)
    with torch.no_grad():
        mean = grown.item_mapping(grown.tables.items.weight.mean(0))
        torch.testing.assert_close(grown.item_tokens(torch.tensor([ITEMS + 1]))[0], mean, atol=1e-5, rtol=1e-5)
