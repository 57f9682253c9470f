"""`tessera export`, and what has been exported imported again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tessera
from app.embedded_redis import ensure_running, stop
from model_store.cache_entries import CacheEntry
from model_store.cache_keys import Keys
from model_store.catalog import Catalog
from model_store.item_codes import code_text
from model_store.item_records import ItemChange, pack_changes
from offline.column_names import ColumnNames
from offline.export.exported_rows import item_rows
from offline.interactions import read_dataset
from offline.item_additions import read_additions
from offline.redis_connection import connect
from tests.cached_entries import put_packed
from tests.tiny_bundle import build_tiny_bundle

KEYS = Keys()
SUFFIXES = (".csv", ".parquet", ".jsonl")


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    """What is hard to write down: commas, quotes, line breaks, one category with a comma, unknown prices."""
    return Catalog(
        item_ids=("a,1", 'b"2', "c", "Ünï"),
        titles=("Lamp, red", 'Chair "old"', "c", "Line\nbreak"),
        texts=("", "A chair; or two | three.", "", "x"),
        categories=(("Home, Garden",), ("Home, Garden", "Chairs;Tables"), (), ("Toys",)),
        prices=np.array([12.34, np.nan, 0, 1e6], dtype=np.float32),
        attributes=({"brand": "Lux", "size": "5|6"}, {}, {"code": "X1"}, {"attributes": "many"}),
        available=np.array([True, False, True, True]),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield home
    stop(home)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, catalog):
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), catalog=catalog, first_level=2)


@pytest.fixture
def redis(home: Path, bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TESSERA_STORE", str(bundle.path.parent))
    monkeypatch.setenv("TESSERA_HOME", str(home))
    redis = connect(ensure_running(home))
    redis.flushall()
    redis.rpush(KEYS.history("ann"), "a,1", 'b"2', "a,1")
    redis.rpush(KEYS.history("bob, the 2nd"), "Ünï")
    return redis


def run(*words: object):
    return CliRunner().invoke(tessera.app, [str(word) for word in words])


def exported(what: str, file: Path) -> dict:
    result = run("export", what, file, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def histories(redis) -> dict[str, list[bytes]]:
    return {KEYS.user_of_history(key.decode()): redis.lrange(key, 0, -1) for key in redis.scan_iter(KEYS.histories())}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exported_events_imported_again_are_the_same_histories(redis, tmp_path: Path, suffix: str) -> None:
    before, path = histories(redis), tmp_path / f"events{suffix}"
    assert exported("events", path) == {"file": str(path), "rows": 4}
    redis.flushall()
    assert run("events", "import", path).exit_code == 0
    assert histories(redis) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_exported_items_read_again_are_the_same_catalogue(redis, tmp_path: Path, catalog, suffix: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    exported("items", folder / f"items{suffix}")
    (folder / "interactions.csv").write_text("user,item,time\nann,c,1\n")
    for read in (
        read_dataset(folder).catalog,
        read_additions(folder / f"items{suffix}", ColumnNames(), replace(catalog, **_nothing())).catalog,
    ):
        assert read.to_table().equals(catalog.to_table())


def _nothing() -> dict:
    empty: dict = dict.fromkeys(("item_ids", "titles", "texts", "categories", "attributes"), ())
    return empty | {"prices": np.zeros(0, np.float32), "available": np.zeros(0, np.bool_)}


def test_exported_items_have_their_codes_and_say_what_was_changed(redis, tmp_path: Path, bundle) -> None:
    exported("items", tmp_path / "i.parquet")
    codes = pq.read_table(tmp_path / "i.parquet")["code"].to_pylist()
    assert codes == [
        "".join(f"<{a}_{n}>" for a, n in zip("uvxy", row, strict=True)) for row in bundle.item_codes.codes_NL
    ]
    changes = {
        "c": {"deleted": True},
        "Ünï": {"title": "New", "price": None, "in_stock": False, "attributes": {"a": "b"}},
    }
    (rows,) = item_rows(bundle, changes)
    assert [row["item_id"] for row in rows] == ["a,1", 'b"2', "Ünï"]
    new = rows[2]
    assert (new["title"], new["price"], new["available"], new["attributes"]) == ("New", None, False, '{"a": "b"}')
    assert (new["text"], new["categories"]) == ("x", ["Toys"])


def test_items_are_exported_as_they_are_now_new_ones_too(redis, tmp_path: Path, bundle) -> None:
    place = {"line": bundle.cache_version, "code": [1, 2, 3, 4], "vector": "", "attempt": 0}
    changes = [
        ItemChange("a,1", "patch", {"price": 3.5, "in_stock": False}),
        ItemChange("c", "delete", {}),
        ItemChange("new", "put", {"title": "New", "place": place}),
        ItemChange("gone", "put", {"title": "Gone"}),
        ItemChange("gone", "delete", {}),
    ]
    redis.xadd(KEYS.items_log, pack_changes(changes))
    assert exported("items", tmp_path / "i.jsonl")["rows"] == 4
    rows = {row["item_id"]: row for row in map(json.loads, (tmp_path / "i.jsonl").read_text().splitlines())}
    assert list(rows) == ["a,1", 'b"2', "Ünï", "new"]
    assert (rows["a,1"]["price"], rows["a,1"]["available"]) == (3.5, False)
    assert (rows["new"]["title"], rows["new"]["code"]) == ("New", code_text(np.array([1, 2, 3, 4], dtype=np.uint8)))


def test_users_are_those_with_a_history_and_those_with_a_list(redis, tmp_path: Path, bundle) -> None:
    codes = bundle.item_codes.codes_NL[:2]
    for user, at in (("ann", 1_700_000_000), ("cat", 1_700_000_001)):
        entry = CacheEntry(codes, np.zeros(2, np.float16), 0, at, "torch")
        put_packed(redis, KEYS, bundle.entry_layout, user, entry.pack())
    put_packed(redis, KEYS, bundle.entry_layout, "bob, the 2nd", b"of another format")
    assert exported("users", tmp_path / "u.jsonl")["rows"] == 3
    rows = {row["user_id"]: row for row in map(json.loads, (tmp_path / "u.jsonl").read_text().splitlines())}
    assert rows["ann"]["entry_age_s"] > 1e7
    assert {user: (row["history_length"], row["has_entry"], row["decoded_at"]) for user, row in rows.items()} == {
        "ann": (3, True, 1_700_000_000),
        "cat": (0, True, 1_700_000_001),
        "bob, the 2nd": (1, False, None),
    }


def test_standard_output_is_json_lines_and_nothing_else(redis) -> None:
    for what, rows in (("events", 4), ("items", 4), ("users", 2)):
        result = run("export", what, "-")
        assert len([json.loads(line) for line in result.stdout.splitlines()]) == rows
        assert result.stderr == f"{rows} rows\n"


def test_without_a_published_version_users_and_events_go_and_items_are_an_error(redis, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "elsewhere"))
    assert exported("users", tmp_path / "u.csv")["rows"] == 2
    assert exported("events", tmp_path / "e.csv")["rows"] == 4
    result = run("export", "items", tmp_path / "i.csv")
    assert (result.exit_code, "no active version" in result.stderr) == (1, True)


def test_what_cannot_be_written_leaves_what_was_there(redis, tmp_path: Path, bundle) -> None:
    for path in (tmp_path / "e.xlsx", tmp_path / "lost" / "e.csv"):
        result = run("export", "events", path)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    path = tmp_path / "i.csv"
    path.write_text("before")
    redis.set(KEYS.history("odd"), "no list")
    assert run("export", "events", path).exit_code == 1
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["i.csv"]
    assert path.stat().st_size == 6
