"""`tessera cache` and `tessera models compare`, from the command line to Redis and back."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tessera
from app.embedded_redis import ensure_running, stop
from model_store.bundle import Bundle
from model_store.cache_entries import pack_entries
from model_store.cache_keys import Keys
from offline.redis_connection import connect
from tests.app.light_bundle import publish_light_bundle
from tests.cached_entries import put_packed
from tests.extended_bundle import extend

USERS = 30


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield home
    stop(home)


@pytest.fixture
def redis(home: Path):
    redis = connect(ensure_running(home))
    redis.flushall()
    return redis


@pytest.fixture
def versions(home: Path, redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bundle, Bundle]:
    """Two versions with an entry for everyone; the second is active."""
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TESSERA_HOME", str(home))
    versions = (
        publish_light_bundle(tmp_path / "store", "light-1", seed=1),
        publish_light_bundle(tmp_path / "store", "light-2", seed=2),
    )
    for bundle in versions:
        for user in range(USERS):
            entry = pack_entries(bundle.item_codes.codes_NL[None, user : user + 5], [[0.0] * 5], [0], 1, "torch")[0]
            put_packed(redis, Keys(), bundle.entry_layout, f"user-{user}", entry)
    return versions


def said(*words: str) -> str:
    result = CliRunner().invoke(tessera.app, [*words])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str) -> str:
    result = CliRunner().invoke(tessera.app, [*words])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, "one line"
    return result.stderr


def test_stats_names_every_version_and_marks_the_served_one(versions):
    found = json.loads(said("cache", "stats", "--json"))
    assert [(one["version"], one["users"], one["active"]) for one in found["caches"]] == [
        ("light-1", USERS, False),
        ("light-2", USERS, True),
    ]
    text = said("cache", "stats")
    assert f"\n  light-1: {USERS} users" in text
    assert f"\n* light-2: {USERS} users" in text
    assert f"{found['redis']['keys']} keys" in text
    assert "hash-max" not in text


def test_stats_names_the_settings_that_make_buckets_compact(versions, redis):
    redis.config_set("hash-max-ziplist-value", 16)
    try:
        put_packed(redis, Keys(), versions[0].entry_layout, "user-0", bytes(38))
        text = said("cache", "stats")
    finally:
        redis.config_set("hash-max-ziplist-value", 1024)
    kind = "listpack" if int(redis.info()["redis_version"].partition(".")[0]) >= 7 else "ziplist"
    assert f"`hash-max-{kind}-entries 512`" in text
    assert f"`hash-max-{kind}-value 1024`" in text


def test_stats_of_nothing_says_what_fills_it(versions, redis):
    redis.flushall()
    assert "tessera refresh" in said("cache", "stats")


def test_purge_says_how_many_entries_went(versions):
    assert said("cache", "purge", "--version", "light-1") == f"light-1: {USERS} entries\n"
    assert [one["version"] for one in json.loads(said("cache", "stats", "--json"))["caches"]] == ["light-2"]
    found = json.loads(said("cache", "purge", "--version", "light-2", "--force", "--json"))
    assert found == {"version": "light-2", "entries": USERS}


def test_purge_of_what_is_served_or_unknown_or_an_extension_is_refused(versions, tmp_path: Path):
    extension = extend(tmp_path / "store", versions[0])
    assert "--force" in refused("cache", "purge", "--version", "light-2")
    assert "light-1, light-2" in refused("cache", "purge", "--version", "lost")
    assert "those of light-1" in refused("cache", "purge", "--version", extension.version)


def test_compare_prints_as_text_what_it_prints_as_json(versions):
    found = json.loads(said("models", "compare", "light-1", "light-2", "--json"))
    assert found["compared"] == USERS
    assert (found["overlap_at_10"], found["same_first_item"], found["rank_correlation"]) == (1, 1, 1)
    text = said("models", "compare", "light-1", "light-2", "--users", "1000")
    assert f"{USERS} users compared: 100.0% of the first ten items in common, the same first item for 100.0%" in text


def test_compare_of_an_unknown_version_is_refused(versions):
    assert "tessera models list" in refused("models", "compare", "light-1", "lost")


def test_what_redis_refuses_is_told_in_one_line(versions, redis):
    redis.hset(Keys().caches, "odd", 1)
    redis.set("tessera:entries:odd:0", "no hash")
    assert "WRONGTYPE" in refused("cache", "stats")
