"""What the options of `tessera refresh` choose, and which go together."""

import json
import time

import httpx
import pytest
from typer.testing import CliRunner

import tessera
from app.embedded_redis import ensure_running, stop
from offline.redis_connection import connect
from offline.refresh.metrics import FullRefreshMetrics
from tests.app.test_server import free_port
from tests.cached_entries import cached_users
from tests.offline.refresh.conftest import KEYS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def redis(home):
    yield connect(ensure_running(home))
    stop(home)


@pytest.fixture
def run(home, bundle, monkeypatch):
    for name, value in {"HOME": home, "STORE": bundle.path.parent, "NAMESPACE": KEYS.namespace}.items():
        monkeypatch.setenv(f"TESSERA_{name}", str(value))
    return lambda *words: CliRunner().invoke(tessera.app, ["refresh", "--k", "5", "--beam", "10", *words])


def test_stale_refreshes_within_its_budget_and_says_how_many_are_left(redis, run, bundle, users):
    done = run("--stale", "--budget-users", "30", "--json")
    summary = json.loads(done.stdout)
    assert (summary["users"], summary["left"], summary["reasons"]) == (30, 40, {"no_entry": 30})
    assert len(cached_users(redis, KEYS, bundle.entry_layout)) == 30
    assert "40 users" in run("--stale").stdout
    assert "0 left" in run("--stale", "--budget-s", "5").stdout


def test_stale_takes_the_allowed_age_and_the_needed_items_it_is_given(run, users):
    run()
    time.sleep(1.1)
    assert json.loads(run("--stale", "--json").stdout)["users"] == 0
    assert json.loads(run("--stale", "--max-age", "0", "--json").stdout)["reasons"] == {"age": 70}


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["--stale", "--resume"], "--resume; nothing has to be resumed"),
        (["--stale", "--users", "some.txt"], "--users"),
        (["--watch", "--version", "x"], "--version"),
        (["--watch", "--stale"], "--stale"),
        (["--budget-users", "3"], "--budget-users"),
        (["--watch", "--budget-s", "3"], "--budget-s"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(run, words, refused):
    done = run(*words)
    assert done.exit_code == 1
    assert refused in done.stderr


def test_a_full_refresh_serves_how_far_it_is(run, users):
    port = free_port()
    assert run("--metrics-port", str(port)).exit_code == 0
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    assert {"tessera_refresh_users_listed 70.0", "tessera_refresh_users_done 70.0"} <= set(lines)
    assert "tessera_refresh_coverage 1.0" in lines
    assert any(float(line.split()[1]) > 0 for line in lines if line.startswith("tessera_refresh_users_per_second "))
    again = run("--metrics-port", str(port))
    assert (again.exit_code, f"--metrics-port {port}" in again.stderr) == (1, True)


def test_coverage_is_that_of_the_users_done():
    metrics = FullRefreshMetrics()
    metrics.observe(100, 30, 10, 5.0)
    assert metrics.registry.get_sample_value("tessera_refresh_coverage") == 0.75
    assert metrics.registry.get_sample_value("tessera_refresh_users_done") == 40
