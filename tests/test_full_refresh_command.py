"""`tessera refresh` as it is typed: what becomes the served version, and what is said when it does not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

import tessera
from app import embedded_redis
from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import Keys
from offline.redis_connection import connect
from tests.cached_entries import cached_users
from tests.tiny_bundle import build_tiny_bundle

KEYS = Keys()
USERS = {f"user-{number}" for number in range(30)}


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Bundle, Bundle]:
    """Two of them, the first one active."""
    first, second = (build_tiny_bundle(tmp_path / "store", version=f"v{n}", seed=n, activate=n == 1) for n in (1, 2))
    return first, second


@pytest.fixture
def redis(tmp_path: Path, versions: tuple[Bundle, Bundle], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """With everyone's history."""
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    redis = connect(embedded_redis.ensure_running(tmp_path / "home"))
    for number, user in enumerate(sorted(USERS)):
        redis.rpush(KEYS.history(user), f"item-{number}", f"item-{number + 1}")
    yield redis
    embedded_redis.stop(tmp_path / "home")


def run(*words: str) -> Result:
    return CliRunner().invoke(tessera.app, [*words])


def active(redis: Any) -> str | None:
    version = redis.get(KEYS.active)
    return version.decode() if version else None


def test_a_shadow_refresh_fills_a_version_and_activating_it_decodes_nothing(
    redis: Any, versions: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    first, second = versions
    assert run("refresh").exit_code == 0
    filled = run("refresh", "--version", "v2", "--shadow", "--json")
    assert json.loads(filled.stdout)["users"] == len(USERS)
    assert active(redis) == "v1"
    assert cached_users(redis, KEYS, first.entry_layout) == cached_users(redis, KEYS, second.entry_layout) == USERS
    assert not redis.exists(KEYS.refresh_ledger("v2")), "there is nothing to resume"
    switched = run("models", "activate", "v2")
    assert (switched.exit_code, switched.stdout.strip(), switched.stderr) == (0, "v2", "")
    assert active(redis) == ModelStore(tmp_path / "store").active() == "v2"
    assert run("models", "rollback").stdout.strip() == "v1"
    assert active(redis) == "v1"


def test_a_version_without_a_cached_list_is_activated_with_a_note(redis: Any) -> None:
    switched = run("models", "activate", "v2")
    assert switched.exit_code == 0
    assert "no list of v2 is cached" in switched.stderr


def test_a_version_that_covers_too_few_users_is_not_served(redis: Any, versions: tuple[Bundle, Bundle]) -> None:
    for number in range(10):
        redis.rpush(KEYS.history(f"stranger-{number}"), "no-such-item")
    refused = run("refresh", "--version", "v2")
    assert refused.exit_code == 1
    assert "75.0% of the users have an entry of v2, 90.0% were asked for" in refused.stderr
    assert active(redis) is None
    assert cached_users(redis, KEYS, versions[1].entry_layout) == USERS, "what was written stays"
    taken = run("refresh", "--version", "v2", "--resume", "--coverage", "0.7", "--json")
    assert taken.exit_code == 0
    assert json.loads(taken.stdout)["coverage"] == 0.75
    assert active(redis) == "v2"


def test_some_users_or_none_switch_nothing(redis: Any, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("user-1\nuser-2\n")
    assert json.loads(run("refresh", "--users", str(tmp_path / "users"), "--json").stdout)["users"] == 2
    assert active(redis) is None
    redis.flushall()
    empty = run("refresh")
    assert empty.exit_code == 1
    assert "no user has a history" in empty.stderr
