"""Small data folders: one with labels in three parts, and one without."""

from pathlib import Path

import numpy as np

from offline.column_names import ColumnNames
from offline.interactions import read_dataset
from offline.rankers.ranking_data import RankingData, ranking_data

KINDS = ("red", "blue")
ITEMS, USERS = 24, 16


def write_labelled(folder: Path, rows_a_user: int = 15, *, all_alike: bool = False) -> Path:
    """Users like what is red or what is blue, and titles say which it is; or all users like what is blue."""
    folder.mkdir()
    random = np.random.default_rng(1)
    _write_items(folder)
    for part, share in (("train", 0.7), ("valid", 0.15), ("test", 0.15)):
        lines = ["user_id:token\titem_id:token\tlabel:float\ttimestamp:float"]
        for user in range(USERS):
            for at in range(max(3, round(share * rows_a_user))):
                item = int(random.integers(ITEMS))
                lines.append(f"u{user}\ti{item}\t{int(item % 2 == (all_alike or user % 2))}\t{at}")
        (folder / f"shop.{part}.inter").write_text("\n".join(lines) + "\n")
    return folder


def write_sequences(folder: Path) -> Path:
    """Users take what is red or what is blue."""
    folder.mkdir()
    random = np.random.default_rng(2)
    _write_items(folder)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        own = random.permutation(np.arange(user % 2, ITEMS, 2))[:4]
        lines += [f"u{user}\ti{item}\t{at}" for at, item in enumerate(own)]
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")
    return folder


def read(folder: Path, negatives: int = 1) -> RankingData:
    return ranking_data(read_dataset(folder), folder, ColumnNames(), negatives=negatives)


def _write_items(folder: Path) -> None:
    lines = ["item_id:token\ttitle:token_seq"]
    lines += [f"i{item}\t{KINDS[item % 2]} thing {item}" for item in range(ITEMS)]
    (folder / "shop.item").write_text("\n".join(lines) + "\n")
