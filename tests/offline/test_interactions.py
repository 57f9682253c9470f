"""What is read, split and written: real files, the generated shop, and the real data sets where they are."""

import json
import os
import tempfile
import time
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.catalog import Catalog
from offline.column_names import ColumnNames
from offline.data_problems import DataError
from offline.generate_catalogue import generate
from offline.interactions import Dataset, read_dataset
from offline.leave_one_out import leave_one_out
from offline.write_recbole import write_recbole

DATA = Path(os.environ.get("TESSERA_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

# Users, items and events as the data sets' own README gives them.
PUBLISHED = {
    "amazon-beauty": (22_363, 12_101, 198_502),
    "amazon-sports": (35_598, 18_357, 296_337),
    "amazon-office": (4_905, 2_420, 53_258),
    "amazon-office-mini": (399, 500, 10_260),
    "amazon-instruments": (24_772, 9_922, 206_153),
    "movielens-100k": (943, 1_682, 100_000),
    "movielens-1m-collm": (838, 3_255, 51_623),
}


def real_names() -> list[str]:
    """Data sets to test on; the generated shop stands in where there are none."""
    found = sorted(path.name for path in DATA.iterdir() if path.is_dir()) if DATA.is_dir() else []
    return found or ["generated"]


@cache
def real_dataset(name: str) -> Dataset:
    if name != "generated":
        return read_dataset(DATA / name)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), users=400, items=200, seed=0)
        return read_dataset(Path(folder))


def inter(*rows: str, header: str = "user_id:token\titem_id:token\ttimestamp:float") -> str:
    return "\n".join([header, *rows]) + "\n"


def many(count: int) -> list[str]:
    """So many sound rows, three of each user."""
    return [f"u{n // 3}\ti{n % 7}\t{n}" for n in range(count)]


def histories(dataset: Dataset) -> dict[str, list[str]]:
    return {
        user_id: [dataset.catalog.item_ids[item] for item in dataset.history(user)]
        for user, user_id in enumerate(dataset.user_ids)
    }


# Real data.


@pytest.mark.parametrize("name", real_names())
def test_a_data_set_is_read_whole_and_makes_sense(name: str) -> None:
    dataset = real_dataset(name)
    if name in PUBLISHED:
        assert (len(dataset.user_ids), len(dataset.catalog), len(dataset.items)) == PUBLISHED[name]
    assert {w.kind for w in dataset.warnings} <= {
        "column not used",
        "item without title",
        "user with too few events to evaluate",
    }
    assert (dataset.offsets.dtype, dataset.items.dtype, dataset.timestamps.dtype) == (np.int64, np.int32, np.float64)
    assert dataset.items.min() >= 0
    assert dataset.items.max() < len(dataset.catalog)
    assert (np.diff(dataset.offsets) > 0).all()
    steps = np.diff(dataset.timestamps)
    steps[dataset.offsets[1:-1] - 1] = 0
    assert (steps >= 0).all()


@pytest.mark.parametrize("name", real_names())
def test_held_out_events_are_in_no_training_history(name: str) -> None:
    dataset = real_dataset(name)
    split = leave_one_out(dataset)
    valid, test = split.evaluation_cases("valid"), split.evaluation_cases("test")
    evaluated = set(test.users.tolist())
    assert evaluated == {u for u in range(len(dataset.user_ids)) if len(dataset.history(u)) >= 3}
    np.testing.assert_array_equal(valid.users, test.users)
    assert not np.shares_memory(split.train.items, dataset.items)
    for user in range(len(dataset.user_ids)):
        kept = dataset.history(user)[:-2] if user in evaluated else dataset.history(user)
        np.testing.assert_array_equal(split.train[user], kept)
    for case, user in enumerate(test.users):
        whole = dataset.history(int(user))
        np.testing.assert_array_equal(valid.histories[case], whole[:-2])
        np.testing.assert_array_equal(test.histories[case], whole[:-1])
        assert (valid.targets[case], test.targets[case]) == (whole[-2], whole[-1])


@pytest.mark.parametrize("suffix", ["inter", "inter.csv", "inter.parquet", "inter.jsonl"])
def test_three_hundred_thousand_events_are_read_in_seconds(tmp_path: Path, suffix: str) -> None:
    count = 300_000
    users = [f"user{n // 8}" for n in range(count)]
    items = [f"item{n * 7919 % 18_000}" for n in range(count)]
    path = tmp_path / f"big.{suffix}"
    if suffix == "inter.parquet":
        pyarrow.parquet.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": range(count)}), path)
    elif suffix == "inter.jsonl":
        rows = zip(users, items, range(count), strict=True)
        path.write_text("".join(f'{{"user_id":"{u}","item_id":"{i}","timestamp":{t}}}\n' for u, i, t in rows))
    else:
        mark = "," if suffix == "inter.csv" else "\t"
        header = ("user_id:token", "item_id:token", "timestamp:float")
        lines = [mark.join(name.split(":")[0] if mark == "," else name for name in header)]
        lines += [f"{u}{mark}{i}{mark}{t}" for u, i, t in zip(users, items, range(count), strict=True)]
        path.write_text("\n".join(lines))
    start = time.process_time()
    dataset = read_dataset(tmp_path)
    # Well under a second here for all but JSON Lines; the bound leaves room for slow machines.
    assert time.process_time() - start < 4
    assert len(dataset.items) == count
    assert len(dataset.catalog) == 18_000


# The same data in every format.


def write_as(folder: Path, suffix: str, events: list[dict], items: list[dict]) -> None:
    for name, rows in (("interactions", events), ("items", items)):
        path = folder / f"{name}.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        elif suffix == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            names = list(rows[0])
            quoted = [['"' + str(row[name]).replace('"', '""') + '"' for name in names] for row in rows]
            path.write_text("\n".join(",".join(row) for row in [names, *quoted]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_csv_parquet_and_json_lines_say_the_same(tmp_path: Path, suffix: str) -> None:
    events = [{"user_id": "ann", "item_id": f"i{n % 2}", "timestamp": n} for n in range(4)]
    categories: list[list[str]] | list[str] = [["Home, Garden", "Tools"], ["Toys"]]
    if suffix == "csv":
        categories = ["Home, Garden|Tools", "Toys"]
    items = [
        {"item_id": "i0", "name": 'A 5" "pipe",\nlong', "text": "é", "category": categories[0], "price": 2.5},
        {"item_id": "i1", "name": "Doll", "text": "", "category": categories[1], "price": 3},
    ]
    for item, colour, stock in zip(items, ["red", ""], [True, False], strict=True):
        item |= {"in_stock": stock, "brand": "Acme", "colour": colour}
    write_as(tmp_path, suffix, events, items)
    dataset = read_dataset(tmp_path)
    catalog = dataset.catalog
    assert histories(dataset) == {"ann": ["i0", "i1", "i0", "i1"]}
    assert catalog.titles == ('A 5" "pipe",\nlong', "Doll")
    assert catalog.texts == ("é", "")
    assert catalog.categories == (("Home, Garden", "Tools"), ("Toys",))
    assert catalog.prices.tolist() == [2.5, 3.0]
    assert catalog.available.tolist() == [True, False]
    assert catalog.attributes == ({"colour": "red", "brand": "Acme"}, {"brand": "Acme"})
    assert dataset.name == tmp_path.name
    assert dataset.warnings == ()


def test_atomic_files_know_no_quotes_and_split_categories_at_blanks(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter(*many(9)))
    rows = [f'i{n}\tA 5" pipe\t"Home"_&_Garden Tools\t\t' for n in range(7)]
    header = "item_id:token\tmovie_title:token_seq\tgenres:token_seq\tprice:float\trelease_year:token"
    (tmp_path / "s.item").write_text(inter(*rows, header=header))
    catalog = read_dataset(tmp_path).catalog
    assert catalog.titles[0] == 'A 5" pipe'
    assert catalog.categories[0] == ('"Home" & Garden', "Tools")
    assert np.isnan(catalog.prices).all()
    assert catalog.attributes[0] == {}


@pytest.mark.parametrize(("mark", "text"), [("|", "a, b|c;d"), (";", "a, b;c"), (",", "a,b")])
def test_csv_categories_split_at_the_strongest_separator_of_the_column(tmp_path: Path, mark: str, text: str) -> None:
    (tmp_path / "s.inter").write_text(inter(*many(9)))
    rows = [f'i{n},"{text if n else "x"}"' for n in range(7)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,categories", *rows]))
    catalog = read_dataset(tmp_path).catalog
    assert catalog.categories[0] == ("x",)
    assert catalog.categories[1] == tuple(part.strip() for part in text.split(mark))


def test_lists_and_structures_of_json_items_are_kept_as_text(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter("u\t1\t0"))
    item = {
        "item_id": 1,
        "title": "T",
        "categories": [["A", "B"], ["A", "C"]],
        "description": ["x", "y"],
        "size": {"w": 1},
    }
    (tmp_path / "items.jsonl").write_text(json.dumps(item))
    catalog = read_dataset(tmp_path).catalog
    assert catalog.item_ids == ("1",)
    assert catalog.categories == (("A", "B", "C"),)
    assert catalog.texts == ("x, y",)
    assert catalog.attributes == ({"size": '{"w":1}'},)


def test_split_atomic_files_are_read_in_the_order_train_valid_test(tmp_path: Path) -> None:
    for part, item in (("train", "a"), ("valid", "b"), ("test", "c")):
        (tmp_path / f"s.{part}.inter").write_text(inter(f"u\t{item}\t0"))
    dataset = read_dataset(tmp_path)
    assert dataset.name == "s"
    assert histories(dataset) == {"u": ["a", "b", "c"]}


def test_dates_and_parquet_times_become_unix_seconds(tmp_path: Path) -> None:
    rows = ["u,a,2024-01-01", "u,b,2024-01-01T01:00:00+01:00", "u,c,2024-01-01 00:00:01.5"]
    (tmp_path / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    midnight = 1_704_067_200.0
    assert read_dataset(tmp_path).timestamps.tolist() == [midnight, midnight, midnight + 1.5]
    (tmp_path / "interactions.csv").unlink()
    times = pa.array([1_704_067_200_000_000_001], pa.timestamp("ns"))
    table = pa.table({"user_id": [7], "item_id": [8], "timestamp": times})
    pyarrow.parquet.write_table(table, tmp_path / "interactions.parquet")
    dataset = read_dataset(tmp_path)
    assert dataset.timestamps.tolist() == [midnight]
    assert dataset.user_ids == ("7",)


def test_nulls_and_nans_of_parquet_are_nothing(tmp_path: Path) -> None:
    events = pa.table({"user_id": ["u"] * 3, "item_id": [1, 2, 3], "timestamp": [1.5, 2.5, 3.5]})
    pyarrow.parquet.write_table(events, tmp_path / "interactions.parquet")
    items = pa.table(
        {
            "item_id": [1, 2, 3],
            "title": pa.array(["A", None, "C"]).dictionary_encode(),
            "price": [float("nan"), None, 2.5],
            "categories": [["x", None], None, []],
            "available": [True, None, False],
            "size": [{"w": 1}, None, {"w": 2}],
        }
    )
    pyarrow.parquet.write_table(items, tmp_path / "items.parquet")
    dataset = read_dataset(tmp_path)
    catalog = dataset.catalog
    assert dataset.timestamps.tolist() == [1.5, 2.5, 3.5]
    assert catalog.titles == ("A", "2", "C")
    assert catalog.categories == (("x",), (), ())
    np.testing.assert_array_equal(catalog.prices, np.array([np.nan, np.nan, 2.5], np.float32))
    assert catalog.available.tolist() == [True, True, False]
    assert catalog.attributes == ({"size": '{"w":1}'}, {}, {"size": '{"w":2}'})


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("who,sku,at,item_id\nann,a,1,x\n")
    columns = ColumnNames(user="who", item="sku", timestamp="at")
    assert histories(read_dataset(tmp_path, columns)) == {"ann": ["a"]}
    with pytest.raises(DataError, match="no column 'when'"):
        read_dataset(tmp_path, ColumnNames(user="who", timestamp="when"))
    with pytest.raises(ValueError, match="two things"):
        ColumnNames(user="id", item="id")


def test_without_an_items_file_the_ids_are_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "s.inter").write_text(inter("u\tb\t0", "u\ta\t1", "v\tb\t2"))
    catalog = read_dataset(tmp_path).catalog
    assert catalog.item_ids == catalog.titles == ("b", "a")


# Writing, and properties of the whole way round.

words = st.text("abé'\"|,; -&", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)


@st.composite
def shops(draw: st.DrawFn) -> tuple[Catalog, list[list[tuple[int, float]]]]:
    count = draw(st.integers(1, 5))
    prices = draw(st.lists(st.just(np.nan) | st.floats(0, 1e6, width=32), min_size=count, max_size=count))
    several = st.lists(words, max_size=3, unique=True).map(tuple)

    def each(strategy: st.SearchStrategy) -> tuple:
        return tuple(draw(st.lists(strategy, min_size=count, max_size=count)))

    catalog = Catalog(
        item_ids=tuple(draw(st.lists(words, min_size=count, max_size=count, unique=True))),
        titles=each(words),
        texts=each(words | st.just("")),
        categories=each(several),
        prices=np.array(prices, np.float32),
        attributes=each(st.fixed_dictionaries({}, optional={"brand": words, "colour": words})),
        available=np.array(each(st.booleans()), np.bool_),
    )
    event = st.tuples(st.integers(0, count - 1), st.floats(-1e9, 1e12).map(lambda time: time + 0.0))
    users = draw(st.lists(st.lists(event, min_size=1, max_size=8, unique_by=lambda e: e[1]), min_size=1, max_size=4))
    return catalog, [sorted(events, key=lambda event: event[1]) for events in users]


@settings(max_examples=60, deadline=None)
@given(shops(), st.randoms())
def test_what_is_written_is_read_back_whatever_the_order_of_rows(
    shop: tuple[Catalog, list[list[tuple[int, float]]]], random: Random
) -> None:
    catalog, users = shop
    events = [event for user in users for event in user]
    with tempfile.TemporaryDirectory() as folder:
        write_recbole(
            Path(folder),
            "s",
            catalog=catalog,
            user_ids=[f"u{n}" for n in range(len(users))],
            offsets=np.cumsum([0, *map(len, users)]),
            items=np.array([item for item, _ in events], np.int32),
            timestamps=np.array([time for _, time in events]),
        )
        dataset = read_dataset(Path(folder))
        path = Path(folder) / "s.inter"
        header, *rows = path.read_text().splitlines(keepends=True)
        random.shuffle(rows)
        path.write_text(header + "".join(rows))
        shuffled = read_dataset(Path(folder))
    assert dataset.catalog.to_table().equals(catalog.to_table())
    assert dataset.items.tolist() == [item for item, _ in events]
    assert dataset.timestamps.tolist() == [time for _, time in events]
    assert np.diff(dataset.offsets).tolist() == [len(user) for user in users]
    assert not [w for w in dataset.warnings if w.kind != "user with too few events to evaluate"]
    assert histories(shuffled) == histories(dataset)


@pytest.mark.parametrize("field", ["a\tb", "a\nb", "a\rb"])
def test_what_atomic_files_cannot_hold_is_not_written(tmp_path: Path, field: str) -> None:
    catalog = Catalog(("i",), (field,), ("",), ((),), np.zeros(1, np.float32), ({},), np.ones(1, np.bool_))
    with pytest.raises(ValueError, match="tab or line break"):
        write_recbole(
            tmp_path / "new",
            "s",
            catalog=catalog,
            user_ids=["u"],
            offsets=np.array([0, 1]),
            items=np.zeros(1, np.int32),
            timestamps=np.zeros(1),
        )
    assert not list((tmp_path / "new").glob("*"))


def test_the_fingerprint_covers_names_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    prints = []
    for folder, name, text in (
        ("one", "s.inter", inter("u\ta\t0")),
        ("two", "s.inter", inter("u\ta\t0")),
        ("three", "s.inter", inter("u\ta\t1")),
        ("four", "t.inter", inter("u\ta\t0")),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        prints.append(read_dataset(tmp_path / folder).fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert len(prints[0]) == 64
