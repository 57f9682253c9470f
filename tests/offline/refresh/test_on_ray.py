"""The refresh on a real Ray cluster of two workers: what it writes, and what may die meanwhile."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

import tessera
from model_store.cache_entries import CacheEntry
from model_store.errors import TesseraError
from offline.refresh.on_ray import shards_of_block
from offline.refresh.ray_cluster import LOCAL, Workers, _fitting, ray_workers
from offline.refresh.ray_worker import ShardWorker, WorkerJob, shard_of, table_of
from offline.refresh.user_plan import Shard
from tests.cached_entries import cached_users, packed_entry, put_packed
from tests.offline.refresh.conftest import KEYS, RANKED
from tests.offline.refresh.ray_refresh import CONFIG, decoder_killed_once, refresh_on_ray, torch_decoder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def workers():
    with ray_workers(LOCAL, count=2) as found:
        yield found


@pytest.fixture
def url(redis):
    return f"unix://{redis.connection_pool.connection_kwargs['path']}"


def entries_of(redis, bundle, users):
    """Codes and scores of each user, as bytes; when they were decoded is left out."""
    found = {}
    for user in users:
        entry = CacheEntry.unpack(packed_entry(redis, KEYS, bundle.entry_layout, user))
        found[user] = (entry.codes_KL.tobytes(), entry.scores.tobytes(), entry.generator)
    return found


def test_two_workers_write_what_this_machine_alone_does_although_one_is_killed(
    redis, refresh, bundle, users, workers, url, tmp_path
):
    refresh(users, config=CONFIG)
    expected = entries_of(redis, bundle, users)
    redis.delete(*(KEYS.bucket(bundle.entry_layout, number) for number in range(bundle.entry_layout.buckets)))
    happened = tmp_path / "happened"
    decoder = partial(decoder_killed_once, happened=happened)
    summary = refresh_on_ray(workers, bundle, url, users, open_decoder=decoder)
    assert not Path(f"/proc/{happened.read_text()}").exists()
    assert (summary.users, summary.skipped, summary.coverage) == (70, 0, 1)
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)
    entries = sum(redis.hlen(KEYS.bucket(bundle.entry_layout, number)) for number in range(bundle.entry_layout.buckets))
    assert entries == 70
    assert entries_of(redis, bundle, users) == expected


def test_workers_rank_as_this_machine_does(redis, refresh, ranked_bundle, users, workers, url):
    refresh(users, bundle=ranked_bundle, config=RANKED)
    expected = entries_of(redis, ranked_bundle, users)
    redis.delete(*(KEYS.bucket(ranked_bundle.entry_layout, n) for n in range(ranked_bundle.entry_layout.buckets)))
    config = replace(RANKED, shard_users=4)
    summary = refresh_on_ray(workers, ranked_bundle, url, users, config=config)
    assert (summary.users, summary.candidates) == (70, 12)
    found = entries_of(redis, ranked_bundle, users)
    assert {user: codes for user, (codes, _, _) in found.items()} == {
        user: codes for user, (codes, _, _) in expected.items()
    }
    assert {generator for _, _, generator in found.values()} == {"torch+ranker"}


@pytest.fixture
def short_folder():
    """For what a killed command leaves behind; sockets lie in it, so its path must be short."""
    with tempfile.TemporaryDirectory(prefix="t", ignore_cleanup_errors=True) as folder:
        yield folder


def test_after_the_command_was_killed_finished_shards_are_not_done_again(
    redis, bundle, users, workers, url, short_folder
):
    command = [sys.executable, "-m", "tests.offline.refresh.ray_refresh", str(bundle.path.parent), bundle.version, url]
    environment = os.environ | {"TMPDIR": short_folder}
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, text=True)
    killed.stdin.write("\n".join(users))
    killed.stdin.close()
    ledger, deadline = KEYS.refresh_ledger(bundle.version), time.monotonic() + 60
    # The plan is a field too.
    while redis.hlen(ledger) < 3:
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    done = settled(lambda: redis.hlen(ledger)) - 1
    first = next(user for user in users if packed_entry(redis, KEYS, bundle.entry_layout, user))
    put_packed(redis, KEYS, bundle.entry_layout, first, b"untouched")
    summary = refresh_on_ray(workers, bundle, url, users, resume=True)
    shards = redis.hlen(ledger) - 1
    assert 2 <= done < shards
    assert (summary.users, summary.coverage) == (70, 1)
    assert packed_entry(redis, KEYS, bundle.entry_layout, first) == b"untouched"
    assert cached_users(redis, KEYS, bundle.entry_layout) == set(users)


def settled(value):
    """A value that has stayed the same for a while: the workers have noticed that the command is gone."""
    before, since = value(), time.monotonic()
    while time.monotonic() - since < 2:
        time.sleep(0.1)
        if value() != before:
            before, since = value(), time.monotonic()
    return before


def test_a_redis_that_is_full_stops_the_command_with_one_clear_line(redis, bundle, users, url, tmp_path):
    environment = os.environ | {
        "TESSERA_STORE": str(bundle.path.parent),
        "TESSERA_HOME": str(tmp_path),
        "TESSERA_NAMESPACE": KEYS.namespace,
        "TESSERA_REDIS_URL": url,
    }
    command = [sys.executable, "-m", "tessera", "refresh", "--ray", "local", "--workers", "1", "--engine", "torch"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        # From here on it is the workers who write.
        while not redis.exists(KEYS.refresh_ledger(bundle.version)):
            assert running.poll() is None
            time.sleep(0.01)
        redis.config_set("maxmemory", 1)
        try:
            said, complained = running.communicate(timeout=100)
        finally:
            redis.config_set("maxmemory", 0)
    assert running.returncode == 1
    assert said == ""
    (line,) = [line for line in complained.splitlines() if line.startswith("error: ")]
    assert "maxmemory" in line
    assert "--resume" in line
    assert "Traceback" not in complained


def test_what_workers_are_told_shows_no_password(bundle, tmp_path):
    job = WorkerJob(
        tmp_path, bundle.version, SecretStr("redis://:swordfish@host/0"), "test", CONFIG, False, torch_decoder
    )
    assert "swordfish" not in repr(job)


def test_a_worker_says_what_it_cannot_open_with_the_first_shard(tmp_path, url):
    job = WorkerJob(tmp_path, "none-such", SecretStr(url), "test", CONFIG, False, torch_decoder)
    answer = ShardWorker(job, 1)(table_of([Shard(0, range(4), ["ann"])]))
    assert "none-such" in answer["trouble"][0].as_py()


def test_a_shard_comes_back_as_it_went():
    shards = [Shard(7, range(28, 32), ["ann", "böb"]), Shard(8, range(32, 36), [])]
    table = table_of(shards)
    assert [shard_of(table.slice(row, 1)) for row in range(2)] == shards


@pytest.mark.parametrize(
    ("shards", "workers", "together"), [(1, 2, 1), (199, 2, 1), (400, 2, 2), (200_000, 8, 64), (10**7, 8, 64)]
)
def test_small_refreshes_are_dealt_shard_by_shard(shards, workers, together):
    assert shards_of_block(shards, workers) == together


@pytest.mark.parametrize(
    ("asked", "workers"),
    [
        ({}, Workers(3, 1, 1.0)),
        ({"gpus": 0}, Workers(12, 1, 0)),
        ({"gpus": 0.5}, Workers(6, 1, 0.5)),
        ({"gpus": 0, "cpus": 3}, Workers(3, 3, 0)),
        ({"count": 5}, Workers(5, 1, 1.0)),
    ],
)
def test_a_cluster_holds_as_many_workers_as_fit_on_its_machines(asked, workers):
    nodes = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, {"memory": 1.0}]
    assert _fitting("auto", nodes, asked.get("count"), asked.get("cpus", 1), asked.get("gpus")) == workers


@pytest.mark.parametrize("count", [None, 3])
def test_workers_that_do_not_fit_are_refused(count):
    with pytest.raises(TesseraError, match="do not fit"):
        _fitting(LOCAL, [{"CPU": 2.0}], count, 1 if count else 4, None)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "nothing answers there"),
        ("127.0.0.1:port", "nothing answers there"),
        ("ray://127.0.0.1:1", "on a node of the cluster"),
    ],
)
def test_an_address_where_no_cluster_is_is_a_clear_error(address, said):
    with pytest.raises(TesseraError, match=said), ray_workers(address):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--ray", "auto"], "TESSERA_REDIS_URL"), (["--workers", "2"], "only with --ray")],
)
def test_what_cannot_work_is_refused_before_anything_starts(options, said, monkeypatch, tmp_path):
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.delenv("TESSERA_REDIS_URL", raising=False)
    refused = CliRunner().invoke(tessera.app, ["refresh", *options])
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert not any(tmp_path.iterdir())
