"""Groups of lists, few training users, and foreign catalogues."""

from pathlib import Path

import numpy as np
import pytest

from model_store.errors import TesseraError
from model_store.rankers.ranker import RankRequest
from offline.rankers.cross_domain import cross_domain_scorer
from offline.rankers.evaluation_groups import evaluate_groups, group_rows
from offline.rankers.few_users import with_few_users
from offline.rankers.next_item_rows import next_item_rows
from offline.rankers.ranking_data import RankingData
from tests.model_store.rankers.small_a_llmrec import small_a_llmrec
from tests.model_store.rankers.small_rankers import ITEMS as KNOWN_ITEMS
from tests.model_store.rankers.small_rankers import small_catalog
from tests.offline.rankers.judged_shop import ITEMS, USERS, read, write_labelled, write_sequences


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RankingData:
    return read(write_sequences(tmp_path_factory.mktemp("data") / "shop"))


def test_cold_items_are_those_least_met_in_training_and_warm_ones_those_most_met(shop: RankingData) -> None:
    assert shop.split is not None
    met = np.bincount(shop.split.train.items, minlength=ITEMS)
    found = group_rows(shop, "test", cold_share=0.25)
    targets = shop.lists["test"].candidates[:, 0]
    cold, warm = targets[found["cold-items"]], targets[found["warm-items"]]
    assert not set(cold.tolist()) & set(warm.tolist())
    assert met[cold].max() <= np.sort(met)[ITEMS // 4 - 1]
    assert met[warm].min() >= np.sort(met)[-ITEMS // 4]
    assert len(found["all"]) == len(targets) == USERS
    assert set(group_rows(shop, "test", cold_share=0.0)) == {"all"}


def test_cold_users_are_those_with_so_many_events(shop: RankingData) -> None:
    found = group_rows(shop, "test", wanted=["cold-users"], cold_user_events=4)
    np.testing.assert_array_equal(found["cold-users"], np.arange(USERS))
    assert list(found) == ["cold-users"]
    with pytest.raises(TesseraError, match="no list of cold-users with 3 events; the fewest that a user has are 4"):
        group_rows(shop, "test", wanted=["cold-users"])


def test_a_groups_metrics_are_of_its_lists_alone(shop: RankingData) -> None:
    rows = {"odd": np.array([1, 3, 5]), "some": np.array([2, 3])}
    keys = {int(shop.user_keys[shop.lists["test"].users[row]]): row for row in range(USERS)}

    def first_for_odd(requests: list[RankRequest]) -> list[np.ndarray]:
        odd = [keys[request.user_key] % 2 for request in requests]
        return [np.where(np.arange(len(r.candidates)) == 0, o, 0.5) for o, r in zip(odd, requests, strict=True)]

    found = evaluate_groups(first_for_odd, shop, "test", rows, "")
    assert found["odd"] == {"hit@1": 1.0, "ndcg@10": 1.0, "lists": 3.0}
    assert (found["some"]["hit@1"], found["some"]["lists"]) == (0.5, 2.0)


def test_few_users_are_trained_on_and_all_are_evaluated(shop: RankingData) -> None:
    few = with_few_users(shop, 5, 0)
    assert few.split is not None
    assert shop.split is not None
    assert len(few.split.train) == 5
    rows = next_item_rows(few, "all")
    assert len(set(rows.users.tolist())) == 5
    for name in ("valid", "test"):
        cases, whole = few.split.evaluation_cases(name), shop.split.evaluation_cases(name)
        np.testing.assert_array_equal(cases.targets, whole.targets)
        np.testing.assert_array_equal(cases.histories.items, whole.histories.items)
    assert few.lists is shop.lists
    for user, row in zip(sorted(set(rows.users.tolist())), range(5), strict=True):
        np.testing.assert_array_equal(few.split.train[row], shop.split.train[user])
    np.testing.assert_array_equal(with_few_users(shop, 5, 0).split.train.items, few.split.train.items)  # type: ignore[union-attr]
    with pytest.raises(TesseraError, match=f"{USERS} users have two training items, 99 are asked for"):
        with_few_users(shop, 99, 0)


def test_labels_have_no_groups_and_no_few_shot_training(tmp_path: Path) -> None:
    labelled = read(write_labelled(tmp_path / "labelled"))
    for refused in (lambda: group_rows(labelled, "test"), lambda: with_few_users(labelled, 2, 0)):
        with pytest.raises(TesseraError, match="label column"):
            refused()


def test_a_foreign_catalogue_is_new_items_to_a_ranker(shop: RankingData) -> None:
    ranker = small_a_llmrec()
    scorer = cross_domain_scorer(ranker, shop.catalog, "shop")
    assert ranker.catalog.item_ids[: KNOWN_ITEMS + 1] == (*small_catalog().item_ids, "shop/i0")
    request = shop.list_requests(shop.lists["test"], [0])[0]
    scores = scorer([request])[0]
    own = ranker.rank(
        [RankRequest(history=request.history + KNOWN_ITEMS, candidates=request.candidates + KNOWN_ITEMS)]
    )[0]
    np.testing.assert_array_equal(scores, own)
    assert scores.std() > 1e-3
