"""Files of new and changed items: what is taken, what is refused, and what is not touched."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.catalog import Catalog
from offline.column_names import ColumnNames
from offline.data_problems import DataError
from offline.item_additions import read_additions

COLUMNS = ColumnNames()


@pytest.fixture
def known() -> Catalog:
    return Catalog(
        item_ids=("a", "b"),
        titles=("Lamp", "Chair"),
        texts=("A lamp.", ""),
        categories=(("Home",), ("Home",)),
        prices=np.array([10, np.nan], dtype=np.float32),
        attributes=({"brand": "Lux"}, {}),
        available=np.array([False, True]),
    )


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rejected(additions):
    return [(row.line, row.reason) for row in additions.rejected]


def test_every_format_gives_the_same_items(tmp_path, known):
    table = pa.table({"item_id": ["n"], "title": ["New"], "price": [2.5], "categories": [["Home", "Desks"]]})
    pq.write_table(table, tmp_path / "new.parquet")
    paths = [
        write(tmp_path, "new.csv", "item_id,title,price,categories\nn,New,2.5,Home|Desks\n"),
        write(
            tmp_path, "new.jsonl", '{"item_id": "n", "title": "New", "price": 2.5, "categories": ["Home", "Desks"]}\n'
        ),
        write(
            tmp_path,
            "new.item",
            "item_id:token\ttitle:token_seq\tprice:float\tcategories:token_seq\nn\tNew\t2.5\tHome Desks\n",
        ),
        tmp_path / "new.parquet",
    ]
    for path in paths:
        additions = read_additions(path, COLUMNS, known)
        catalog = additions.catalog
        assert (catalog.item_ids, catalog.titles, catalog.categories) == (("n",), ("New",), (("Home", "Desks"),))
        assert (catalog.prices.tolist(), catalog.available.tolist(), additions.rejected) == ([2.5], [True], ())


def test_each_bad_row_is_named_with_its_line_and_the_others_are_taken(tmp_path, known):
    path = write(
        tmp_path,
        "new.csv",
        'item_id,title,price,available\nn1,"Two\nlines",1,yes\n,Nameless,1,yes\nn2,Dear,much,yes\nn3,One\n'
        "n4,Maybe,1,soon\nn1,Other,1,yes\nn5,Minus,-1,yes\nn6,Fine,,no\n",
    )
    additions = read_additions(path, COLUMNS, known)
    assert additions.catalog.item_ids == ("n1", "n6")
    assert additions.catalog.available.tolist() == [True, False]
    assert [line for line, _ in rejected(additions)] == [4, 5, 6, 7, 8, 9]
    expected = ("no item id", "'much'", "not as many fields", "'soon'", "differently, in line 2", "'-1'")
    assert all(said in reason for said, (_, reason) in zip(expected, rejected(additions), strict=True))


def test_lines_of_json_that_are_no_objects_are_named_and_blank_ones_are_nothing(tmp_path, known):
    path = write(tmp_path, "new.jsonl", '{"item_id": "n"}\n\n[1]\n{"item_id": \n{"item_id": "m"}\n')
    additions = read_additions(path, COLUMNS, known)
    assert additions.catalog.item_ids == ("n", "m")
    assert [line for line, _ in rejected(additions)] == [3, 4]


def test_rows_of_a_parquet_file_are_called_rows(tmp_path, known):
    pq.write_table(pa.table({"item_id": ["n", ""]}), tmp_path / "new.parquet")
    (row,) = read_additions(tmp_path / "new.parquet", COLUMNS, known).rejected
    assert str(row) == "row 2: no item id; every item needs one"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("new.csv", "item_id,price\nn,much\n,1\n", r"line 2: price 'much'.*; line 3: no item id"),
        ("new.csv", "item_id,price\n" + "n,much\n" * 9, "and 4 more"),
        ("new.csv", "item_id,price\nn\n", "line 2"),
        ("new.csv", "price\n1\n", "no item column"),
        ("new.csv", "item_id\n", "no rows"),
        ("new.csv", "", "empty"),
        ("new.txt", "item_id,title\nn,New\n", r"must end in \.csv"),
        ("new.parquet", "item_id\nn\n", "cannot be read|not a sound Parquet"),
    ],
)
def test_a_file_without_a_sound_row_is_an_error_that_says_where(tmp_path, known, name, text, message):
    with pytest.raises(DataError, match=message) as failure:
        read_additions(write(tmp_path, name, text), COLUMNS, known)
    assert name in str(failure.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path, known):
    with pytest.raises(DataError, match=r"gone\.csv"):
        read_additions(tmp_path / "gone.csv", COLUMNS, known)


@pytest.mark.parametrize("text", ["item_id,price\na,12\n", "item_id,price,title,available\na,12,,\n"])
def test_what_the_file_does_not_say_of_a_known_item_is_not_changed(tmp_path, known, text):
    catalog = read_additions(write(tmp_path, "new.csv", text), COLUMNS, known).catalog
    assert (catalog.titles, catalog.available.tolist(), catalog.prices.tolist()) == (("Lamp",), [False], [12.0])


def test_what_it_does_say_is(tmp_path, known):
    path = write(tmp_path, "new.csv", "item_id,name,in_stock\na,Lantern,true\nb,,no\nn,,\n")
    catalog = read_additions(path, ColumnNames(title="name"), known).catalog
    assert catalog.titles == ("Lantern", "Chair", "n")
    assert catalog.available.tolist() == [True, False, True]
