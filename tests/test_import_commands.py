"""`tessera events import` of a single file, and what is told of rows that were not taken."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tessera
from app.embedded_redis import ensure_running, stop
from model_store.bundle import ModelStore
from model_store.cache_keys import Keys
from offline import event_file, stream_rows
from offline.column_names import ColumnNames
from offline.event_file import EventFile
from offline.redis_connection import connect
from offline.rejected_rows import Rejections
from tests.app.light_bundle import publish_light_bundle

KEYS = Keys()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield home
    stop(home)


@pytest.fixture
def redis(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty Redis, and a store with a version of item-0 to item-49."""
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TESSERA_HOME", str(home))
    monkeypatch.setenv("TESSERA_HISTORY_LENGTH", "5")
    publish_light_bundle(tmp_path / "store")
    redis = connect(ensure_running(home))
    redis.flushall()
    return redis


def run(*words: object):
    return CliRunner().invoke(tessera.app, [str(word) for word in words])


def imported(*words: object) -> dict:
    result = run("events", "import", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def histories(redis) -> dict[str, list[str]]:
    return {
        KEYS.user_of_history(key.decode()): [item.decode() for item in redis.lrange(key, 0, -1)]
        for key in redis.scan_iter(KEYS.histories())
    }


def file(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


ROWS = [("ann", "item-3", 30), ("bob", "item-1", 5), ("ann", "item-1", 10), ("ann", "item-2", 20), ("ann", "lost", 20)]
EXPECTED = {"ann": ["item-1", "item-2", "lost", "item-3"], "bob": ["item-1"]}


def as_csv(rows) -> str:
    return "\n".join(["user_id,item_id,timestamp", *(f"{user},{item},{at}" for user, item, at in rows)])


def test_every_format_gives_the_same_histories_in_order_of_time(redis, tmp_path: Path) -> None:
    names = ("user_id", "item_id", "timestamp")
    pq.write_table(pa.table(dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))), tmp_path / "e.parquet")
    inter = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in ROWS)]
    paths = [
        tmp_path / "e.parquet",
        file(tmp_path, "e.csv", "\ufeff" + as_csv(ROWS) + "\n\n"),
        file(tmp_path, "e.jsonl", "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in ROWS)),
        file(tmp_path, "e.inter", "\n".join(inter)),
    ]
    for path in paths:
        redis.flushall()
        summary = imported(path)
        assert histories(redis) == EXPECTED, path
        assert summary == {
            "accepted": 5,
            "users": 2,
            "duplicates": 0,
            "unknown_items": 1,
            "rejected": 0,
            "rejections": [],
        }
        assert 0 < redis.ttl(KEYS.history("ann")) <= 90 * 86_400


def test_importing_twice_is_as_importing_once_and_keeps_what_redis_alone_knows(redis, tmp_path: Path) -> None:
    path = file(tmp_path, "e.csv", as_csv(ROWS))
    redis.rpush(KEYS.history("ann"), "item-1", "item-40")
    for _ in range(2):
        imported(path)
        assert histories(redis)["ann"] == [*EXPECTED["ann"], "item-40"]


def test_append_adds_behind_keeps_the_bound_and_marks_news(redis, tmp_path: Path) -> None:
    path = file(tmp_path, "e.csv", as_csv(ROWS))
    redis.rpush(KEYS.history("ann"), "item-8", "item-9")
    imported(path, "--append")
    assert histories(redis)["ann"] == ["item-9", *EXPECTED["ann"]]
    assert redis.zcard(KEYS.dirty) == 2
    imported(path, "--append")
    assert histories(redis)["ann"] == ["item-3", *EXPECTED["ann"]]


def test_columns_have_names_dates_are_times_and_without_times_the_order_of_the_file_counts(redis, tmp_path) -> None:
    dated = file(tmp_path, "e.csv", "who,sku,when\nann,item-2,2024-05-01T00:00:00Z\nann,item-1,2024-04-30\n")
    imported(dated, "--column", "user=who", "--column", "item=sku", "--column", "timestamp=when")
    untimed = file(tmp_path, "f.jsonl", '{"user": 7, "item": "item-2"}\n{"user": 7, "item": "item-1"}\n')
    imported(untimed)
    assert histories(redis) == {"ann": ["item-1", "item-2"], "7": ["item-2", "item-1"]}


BAD_CSV = (
    b"user_id,item_id,timestamp\n"
    b"ann,item-1,1\n"
    b"ann,item-1\n"
    b",item-1,2\n"
    b'"multi\nline",item-1,2\n'
    b"ann,item-2,noon\n"
    b"ann,item-\xff,3\n"
    b"ann,item-3,4\n"
    b"ann,item-3,4\n"
    b"ann,item-4,nan\n"
)


def test_rejected_rows_are_named_by_line_and_their_text_is_in_the_file_alone(redis, tmp_path: Path) -> None:
    path, rejected = file(tmp_path, "e.csv", BAD_CSV), tmp_path / "bad.jsonl"
    result = run("events", "import", path, "--rejected", rejected, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    lines = [3, 4, 5, 7, 8, 11]
    assert (summary["accepted"], summary["rejected"], summary["duplicates"], summary["users"]) == (3, 6, 1, 1)
    assert [row["line"] for row in summary["rejections"]] == lines
    found = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [row["line"] for row in found] == lines
    assert [row["text"] for row in found][:4] == [
        "ann,item-1",
        ",item-1,2",
        '"multi\nline",item-1,2',
        "ann,item-2,noon",
    ]
    reasons = ["2 fields where", "no user_id", "no user id", "no time", "not UTF-8", "no time"]
    assert all(said in row["reason"] for said, row in zip(reasons, found, strict=True))
    assert result.stderr.count("warning:") == 6
    assert "line 7: timestamp is no time" in result.stderr
    assert "noon" not in result.stdout + result.stderr
    assert histories(redis) == {"ann": ["item-1", "item-3"]}


def test_no_more_than_twenty_rows_are_shown_and_nothing_taken_is_an_error(redis, tmp_path: Path) -> None:
    path, rejected = file(tmp_path, "e.jsonl", "no json\n" * 50), tmp_path / "bad.jsonl"
    result = run("events", "import", path, "--rejected", rejected, "--json")
    assert (result.exit_code, json.loads(result.stdout)["accepted"]) == (1, 0)
    assert result.stderr.count("warning:") == 21
    assert "and 30 more" in result.stderr
    assert result.stderr.endswith(f"error: {path}: no event can be taken\n")
    assert len(rejected.read_text().splitlines()) == 50
    assert histories(redis) == {}


def test_strict_items_rejects_what_the_served_catalogue_has_not(redis, tmp_path: Path) -> None:
    path = file(tmp_path, "e.csv", as_csv(ROWS))
    summary = imported(path, "--strict-items")
    assert (summary["accepted"], summary["unknown_items"]) == (4, 0)
    assert summary["rejections"] == [{"line": 6, "reason": "item_id is not in the served catalogue"}]
    assert "lost" not in histories(redis)["ann"]


def test_without_a_catalogue_nothing_is_said_about_items_and_strict_is_refused(redis, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "elsewhere"))
    path = file(tmp_path, "e.csv", as_csv(ROWS))
    assert imported(path)["unknown_items"] is None
    refused = run("events", "import", path, "--strict-items")
    assert (refused.exit_code, "no served version" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("e.csv", "", "the file is empty"),
        ("e.csv", "a,b\n1,2\n", "no user column"),
        ("e.csv", "user,user\n", "is there twice"),
        ("e.inter", "user\titem\n", "name:type"),
        ("e.txt", "user,item\n", "told by its suffix"),
        ("e.parquet", "no parquet", "not a sound Parquet file"),
        ("e.jsonl", "", "no event in it"),
        ("e.csv", "user,item\n", "no event in it"),
        ("e.csv", b"\xff\xfeu\0s\0", "not UTF-8"),
        ("lost.csv", None, "no such file"),
    ],
)
def test_a_file_that_is_none_of_events_is_one_line(redis, tmp_path: Path, name, text, said) -> None:
    path = tmp_path / name if text is None else file(tmp_path, name, text)
    result = run("events", "import", path)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_is_imported_as_ever_and_takes_no_option_of_files(redis, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    file(folder, "interactions.csv", as_csv(ROWS))
    assert imported(folder) == {"accepted": 5, "rejected": 0, "users": 2}
    assert histories(redis) == EXPECTED
    for option in ("--append", "--strict-items", "--rejected=x"):
        result = run("events", "import", folder, option)
        assert (result.exit_code, "takes a file" in result.stderr) == (1, True)


def test_users_are_dealt_out_over_parts_each_once_and_sorted_within(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(event_file, "_BYTES_OF_PART", 2000)
    monkeypatch.setattr(event_file, "_ROWS_IN_MEMORY", 50)
    rows = [(f"user-{n % 37}", f"item-{n}", -n) for n in range(1000)]
    found = EventFile(file(tmp_path, "e.csv", as_csv(rows)), ColumnNames())
    parts = list(found.histories(Rejections()))
    assert len(parts) > 5
    users = [user for part in parts for user, _ in part]
    assert len(users) == len(set(users)) == found.counts.users == 37
    by_user = dict(history for part in parts for history in part)
    assert by_user["user-5"] == [f"item-{n}" for n in range(999, -1, -1) if n % 37 == 5]


def test_a_line_without_an_end_is_rejected_and_not_held(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stream_rows, "_MAX_LINE_BYTES", 100)
    path = file(tmp_path, "e.jsonl", '{"user": "a", "item": "' + "x" * 5000 + '"}\n{"user": "a", "item": "b"}\n')
    rejected = Rejections()
    assert list(EventFile(path, ColumnNames()).histories(rejected)) == [[("a", ["b"])]]
    assert [(row.line, row.reason) for row in rejected.first] == [(1, "longer than 100 bytes")]


def test_rejected_items_are_told_in_the_same_shape(redis, tmp_path: Path) -> None:
    path, rejected = file(tmp_path, "i.csv", "item_id,title,price\n,Lamp,1\nitem-1,Chair,dear\n"), tmp_path / "bad"
    result = run("items", "add", path, "--rejected", rejected, "--json")
    assert result.exit_code == 1
    found = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [(row["line"], row["text"]) for row in found] == [(2, ",Lamp,1"), (3, "item-1,Chair,dear")]
    path.write_text("item_id,title,price\nitem-1,Title 1,\nitem-2,Chair,dear\n")
    result = run("items", "add", path, "--rejected", rejected, "--json")
    summary = json.loads(result.stdout)
    assert (summary["accepted"], summary["added"], summary["updated"], summary["rejected"]) == (1, 0, 0, 1)
    assert summary["rejections"][0]["line"] == 3
    assert "dear" in summary["rejections"][0]["reason"]
    assert result.stderr.startswith(f"warning: {path}: line 3: ")
    assert len(rejected.read_text().splitlines()) == 1
    assert ModelStore(tmp_path / "store").versions() == ["light-1"]
