"""What is worked around is counted, with an example; what cannot be is one line: where, what, and what to do."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.data_problems import DataError, DataWarning
from offline.interactions import Dataset, read_dataset
from offline.leave_one_out import leave_one_out


def inter(*rows: str, header: str = "user_id:token\titem_id:token\ttimestamp:float") -> str:
    return "\n".join([header, *rows]) + "\n"


def many(count: int) -> list[str]:
    """So many sound rows, three of each user."""
    return [f"u{n // 3}\ti{n % 7}\t{n}" for n in range(count)]


def warning(dataset: Dataset, kind: str) -> DataWarning:
    (found,) = [warning for warning in dataset.warnings if warning.kind == kind]
    return found


def histories(dataset: Dataset) -> dict[str, list[str]]:
    return {
        user_id: [dataset.catalog.item_ids[item] for item in dataset.history(user)]
        for user, user_id in enumerate(dataset.user_ids)
    }


def test_a_bad_row_among_many_is_dropped_and_counted(tmp_path: Path) -> None:
    rows = many(900)
    rows[10] += "\textra"
    rows[20] = "u\t\t5"
    rows[30] = "u\ti1\tyesterday"
    (tmp_path / "s.inter").write_text(inter(*rows))
    dataset = read_dataset(tmp_path)
    assert len(dataset.items) == 897
    for kind, line in (
        ("wrong number of fields", 12),
        ("empty user or item id", 22),
        ("unparsable timestamp", 32),
    ):
        found = warning(dataset, kind)
        assert found.count == 1
        assert found.example.startswith(f"s.inter:{line}: ")
    assert "'yesterday'" in warning(dataset, "unparsable timestamp").example


def test_lines_are_right_after_quoted_line_breaks_and_rows_left_out(tmp_path: Path) -> None:
    rows = [f"u{n // 3},i{n % 7},{n}," for n in range(900)]
    rows[5] += '"two\nlines"'
    rows[7] = "short"
    rows[9] = "u,i,never,"
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp,note", *rows]))
    dataset = read_dataset(tmp_path)
    assert warning(dataset, "wrong number of fields").example.startswith("interactions.csv:10: ")
    assert warning(dataset, "unparsable timestamp").example.startswith("interactions.csv:12: ")


def test_bad_json_lines_are_counted_and_blank_lines_are_not(tmp_path: Path) -> None:
    rows = [json.dumps({"user_id": n // 3, "item_id": n % 7, "timestamp": n}) for n in range(900)]
    rows[3] = ""
    rows[4] = "{"
    rows[6] = "[1]"
    (tmp_path / "interactions.jsonl").write_text("\n".join(rows))
    found = warning(read_dataset(tmp_path), "not a JSON object")
    assert found.count == 2
    assert found.example.startswith("interactions.jsonl:5: ")


def test_blank_lines_hold_no_events(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter("u\ta\t0", "", "u\tb\t1", ""))
    dataset = read_dataset(tmp_path)
    assert histories(dataset) == {"u": ["a", "b"]}
    assert warning(dataset, "blank row").example == "s.inter:3"


def test_unknown_items_are_dropped_and_cold_items_kept(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter("u\ta\t0", "u\tghost\t1", "v\tghost\t2", "w\tb\t3"))
    (tmp_path / "s.item").write_text("item_id:token\ttitle:token_seq\nb\tB\ncold\tC\na\tA\n")
    dataset = read_dataset(tmp_path)
    assert dataset.catalog.item_ids == ("b", "cold", "a")
    assert histories(dataset) == {"u": ["a"], "w": ["b"]}
    found = warning(dataset, "unknown item")
    assert found.count == 2
    assert found.example.startswith("s.inter:3: item 'ghost'")


def test_repeated_events_are_dropped_unless_their_type_differs(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\ttimestamp:float\tevent_type:token"
    rows = ["u\ta\t5\tview", "u\tb\t6\tview", "u\ta\t5\tbuy", "u\ta\t5\tview", "u\ta\t7\tview"]
    (tmp_path / "s.inter").write_text(inter(*rows, header=header))
    dataset = read_dataset(tmp_path)
    assert histories(dataset) == {"u": ["a", "a", "b", "a"]}
    assert warning(dataset, "duplicate event").example == "s.inter:5"


def test_events_are_put_in_time_order_and_ties_stay(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter("u\tlate\t9", "v\tx\t1", "u\tb\t5", "u\ta\t5", "u\tfirst\t-1e0"))
    dataset = read_dataset(tmp_path)
    assert histories(dataset) == {"u": ["first", "b", "a", "late"], "v": ["x"]}
    found = warning(dataset, "event out of time order")
    assert (found.count, found.example) == (2, "s.inter:4: earlier than the user's event before it")


def test_users_too_short_to_evaluate_train_whole(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter("a\tx\t0", "a\ty\t1", "b\tx\t0", "b\ty\t1", "b\tz\t2"))
    dataset = read_dataset(tmp_path)
    assert warning(dataset, "user with too few events to evaluate").count == 1
    split = leave_one_out(dataset)
    assert [split.train[user].tolist() for user in range(2)] == [[0, 1], [0]]
    case = split.evaluation_cases("test")
    assert (case.users.tolist(), case.histories[0].tolist(), case.targets.tolist()) == ([1], [0, 1], [2])


def test_soft_problems_of_items_are_counted(tmp_path: Path) -> None:
    rows = [f"i{n},Title {n},{n}.5,true" for n in range(700)]
    rows[1] = "i1,,N/A,"
    rows[2] = "i2,T,cheap,true"
    rows[3] = "i3,T,-1,maybe"
    rows.append(rows[4])
    (tmp_path / "s.inter").write_text(inter(*many(9)))
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,price,in_stock", *rows]))
    dataset = read_dataset(tmp_path)
    assert len(dataset.catalog) == 700
    assert dataset.catalog.titles[1] == "i1"
    assert np.isnan(dataset.catalog.prices[1:4]).all()
    assert dataset.catalog.available.all()
    assert warning(dataset, "unparsable price").count == 2
    assert warning(dataset, "unparsable price").example.startswith("items.csv:4: price 'cheap'")
    assert warning(dataset, "unparsable availability").example.startswith("items.csv:5: 'maybe'")
    assert warning(dataset, "duplicate item").example.startswith("items.csv:702: ")
    assert warning(dataset, "item without title").example.startswith("items.csv:3")


HARD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no folder": (lambda f: f.rmdir(), ("no such folder",)),
    "nothing there": (lambda f: (f / "notes.txt").write_text("x"), ("no interactions file", "notes.txt")),
    "two sets": (
        lambda f: [(f / name).write_text(inter("u\ta\t0")) for name in ("a.inter", "b.inter")],
        ("several interactions files: a.inter, b.inter",),
    ),
    "whole and parts": (
        lambda f: [(f / name).write_text(inter("u\ta\t0")) for name in ("a.inter", "a.train.inter")],
        ("several interactions files",),
    ),
    "two item files": (
        lambda f: [(f / name).write_text(inter("u\ta\t0")) for name in ("a.inter", "a.item", "items.csv")],
        ("several items files: a.item, items.csv",),
    ),
    "items of another set": (
        lambda f: [(f / name).write_text(inter("u\ta\t0")) for name in ("a.inter", "b.item")],
        ("b.item does not belong", "rename"),
    ),
    "empty file": (lambda f: (f / "a.inter").touch(), ("a.inter", "empty")),
    "header only": (lambda f: (f / "a.inter").write_text(inter()), ("a.inter", "no rows")),
    "blank lines only": (lambda f: (f / "a.inter").write_text(inter("", "")), ("a.inter", "no events")),
    "latin-1": (
        lambda f: (f / "a.inter").write_bytes(inter("u\ta\t0").encode() + b"u\tcaf\xe9\t1\n"),
        ("a.inter, line 3", "byte 55 (0xe9)", "iconv"),
    ),
    "utf-16": (
        lambda f: (f / "a.inter").write_text(inter("u\ta\t0"), encoding="utf-16-le"),
        ("a.inter, line 1", "not UTF-8"),
    ),
    "no types in the header": (
        lambda f: (f / "a.inter").write_text("user_id\titem_id\ttimestamp\nu\ta\t0\n"),
        ("a.inter, line 1", "name:type"),
    ),
    "a CSV in disguise": (
        lambda f: (f / "a.inter").write_text("user_id,item_id,timestamp\nu,a,0\n"),
        ("a.inter, line 1", ".csv"),
    ),
    "no time column": (
        lambda f: (f / "interactions.csv").write_text("user_id,item_id,rating\nu,a,0\n"),
        ("interactions.csv, line 1", "no timestamp column", "rating"),
    ),
    "a column twice": (
        lambda f: (f / "interactions.csv").write_text("user_id,item_id,item_id\nu,a,0\n"),
        ("'item_id' is there twice",),
    ),
    "too many bad rows": (
        lambda f: (f / "a.inter").write_text(inter(*many(97), "u\ta\tx", "u\ta\ty", "\ta\t3")),
        ("a.inter, line 99", "'x' is no time", "3 of 100 rows", "1%"),
    ),
    "all rows too short": (
        lambda f: (f / "a.inter").write_text(inter("u a 0", "v b 1")),
        ("a.inter, line 2", "1 fields", "tabs"),
    ),
    "an item twice": (
        lambda f: [
            (f / "a.inter").write_text(inter("u\ta\t0")),
            (f / "items.csv").write_text('item_id,title\na,"A\nB"\nb,B\na,C\n'),
        ],
        ("items.csv, line 5", "line 2", "keep one"),
    ),
    "only unknown items": (
        lambda f: [
            (f / "a.inter").write_text(inter("u\tghost\t0")),
            (f / "items.csv").write_text("item_id\na\n"),
        ],
        ("a.inter:2", "'ghost'"),
    ),
    "no Parquet": (lambda f: (f / "interactions.parquet").write_text("user_id"), ("interactions.parquet", "Parquet")),
    "lists for ids": (
        lambda f: (f / "interactions.jsonl").write_text('{"user_id": ["u"], "item_id": "a", "timestamp": 0}'),
        ("interactions.jsonl", "'user_id' holds list"),
    ),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_problems_say_where_and_what(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make, texts = HARD[case]
    make(folder)
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    error = caught.value
    for text in texts:
        assert text in str(error)
    assert "\n" not in str(error)
    assert str(folder) in str(error)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["a.inter", "interactions.csv", "interactions.jsonl", "interactions.parquet"]),
    header=st.sampled_from([b"user_id:token\titem_id:token\ttimestamp:float\n", b"user_id,item_id,timestamp\n", b""]),
    body=st.binary(max_size=40) | st.text('u1\t,"\n\r{}[]:|-.é ', max_size=40).map(str.encode),
    items=st.none() | st.text('ab,"\n\r ', max_size=30).map(lambda text: ("item_id,title\n" + text).encode()),
)
def test_no_bytes_make_anything_but_a_data_set_or_a_data_error(
    name: str, header: bytes, body: bytes, items: bytes | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(header + body)
        if items is not None:
            (Path(folder) / "items.csv").write_bytes(items)
        try:
            dataset = read_dataset(Path(folder))
        except DataError:
            return
        assert len(dataset.items) > 0
