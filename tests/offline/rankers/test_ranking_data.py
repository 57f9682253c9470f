"""What rankers are trained and measured on."""

from pathlib import Path

import numpy as np
import pytest

from offline.data_problems import DataError
from offline.rankers.ranking_data import DRAWN
from tests.offline.rankers.judged_shop import ITEMS, read, write_labelled, write_sequences


def rows_of(path: Path) -> list[tuple[str, str, bool]]:
    lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [(user, item, label == "1") for user, item, label, _ in lines]


def test_a_history_is_what_the_user_liked_before_over_all_parts(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "shop")
    data = read(folder)
    assert data.protocol == "labelled"
    before: dict[str, list[str]] = {}
    trained: dict[int, set[str]] = {0: set(), 1: set()}
    for part in ("train", "valid", "test"):
        samples = data.samples[part]  # type: ignore[index]
        rows = rows_of(folder / f"shop.{part}.inter")
        assert len(samples) == len(rows)
        for number, (user, item, liked) in enumerate(rows):
            names = [data.catalog.item_ids[i] for i in samples.history(number)]
            assert names == before.get(user, [])
            assert data.catalog.item_ids[samples.items[number]] == item
            assert (data.dataset.user_ids[samples.users[number]], samples.labels[number]) == (user, liked)
            if part == "train":
                trained[0].add(user)
                trained[1].add(item)
            else:
                assert samples.warm[number] == (user in trained[0] and item in trained[1])
            if liked:
                before.setdefault(user, []).append(item)


def test_other_folders_are_split_by_leaving_the_last_items_out(tmp_path: Path) -> None:
    data = read(write_sequences(tmp_path / "shop"), negatives=2)
    assert data.protocol == "leave-one-out"
    train = data.samples["train"]
    assert len(train) == 16 * 2 * 3
    assert train.labels.reshape(-1, 3).tolist() == [[True, False, False]] * 32
    for number in range(len(train)):
        had = set(data.dataset.history(int(train.users[number])).tolist())
        assert (int(train.items[number]) in had) == bool(train.labels[number])
        # What comes later is in no history.
        assert len(train.history(number)) == (number // 3) % 2
    for part, known in (("valid", 2), ("test", 3)):
        lists = data.lists[part]  # type: ignore[index]
        for number in range(len(lists)):
            whole = data.dataset.history(int(lists.users[number])).tolist()
            assert lists.histories[number].tolist() == whole[:known]
            assert lists.candidates[number][0] == whole[known]
            others = lists.candidates[number][1:].tolist()
            assert len(set(others)) == DRAWN
            assert not set(others) & set(whole)


def test_the_same_folder_gives_the_same_lists(tmp_path: Path) -> None:
    folder = write_sequences(tmp_path / "shop")
    np.testing.assert_array_equal(read(folder).lists["test"].candidates, read(folder).lists["test"].candidates)
    assert read(folder).lists["test"].candidates.max() < ITEMS


def test_labels_in_one_file_or_that_are_words_are_refused(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "shop")
    path = folder / "shop.valid.inter"
    whole = path.read_text()
    path.write_text(whole.replace("\t1\t", "\tyes\t", 1))
    with pytest.raises(DataError, match=r"shop.valid.inter, line \d+: label must be a number"):
        read(folder)
    path.unlink()
    with pytest.raises(DataError, match="asks for the parts"):
        read(folder)
