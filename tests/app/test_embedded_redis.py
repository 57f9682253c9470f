"""One real server per home, shared, durable, without a port."""

import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from app import embedded_redis
from app.embedded_redis import EmbeddedRedisFailed, ensure_running, has_died, socket_path, stop
from tests.redis_servers import wait_until


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def test_data_survives_the_server(home: Path) -> None:
    with redis.Redis.from_url(ensure_running(home)) as client:
        client.set("kept", "yes")
    assert stop(home)
    with redis.Redis.from_url(ensure_running(home)) as client:
        assert client.get("kept") == b"yes"


def test_commands_started_at_once_share_one_server(home: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        urls = list(pool.map(lambda _: ensure_running(home), range(6)))
    assert len(set(urls)) == 1
    script = "import sys, pathlib; from app.embedded_redis import *; print(ensure_running(pathlib.Path(sys.argv[1])))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert {process.communicate(timeout=20)[0].strip() for process in processes} == set(urls)


def test_server_outlives_the_process_that_started_it(home: Path) -> None:
    script = "import sys, pathlib; from app.embedded_redis import *; print(ensure_running(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=True)
    assert server_pid(done.stdout.strip()) != os.getpid()


def test_it_has_no_port_and_never_evicts(home: Path) -> None:
    with redis.Redis.from_url(ensure_running(home)) as client:
        found = {name: client.config_get(name)[name] for name in ("port", "appendonly", "maxmemory-policy")}
    assert found == {"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction"}


def test_long_home_gets_a_short_private_socket(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 60) / ("b" * 60)
    try:
        url = ensure_running(home)
        assert len(os.fsencode(socket_path(home))) < 104
        assert url == f"unix://{socket_path(home)}"
        assert socket_path(home).parent.stat().st_mode & 0o077 == 0
        assert (home / "redis" / "redis.pid").exists(), "the data stays under the home"
        assert server_pid(url)
    finally:
        stop(home)
        socket_path(home).parent.rmdir()


def test_folder_somebody_else_prepared_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 60) / ("b" * 60) / uuid.uuid4().hex
    prepared = socket_path(home).parent
    prepared.mkdir(mode=0o777)
    prepared.chmod(0o777)
    try:
        with pytest.raises(EmbeddedRedisFailed, match="not a private folder"):
            ensure_running(home)
    finally:
        prepared.rmdir()


def test_stopping_what_does_not_run_is_harmless(tmp_path: Path) -> None:
    assert not stop(tmp_path / "nothing")


def test_server_that_cannot_start_says_why(home: Path) -> None:
    (home / "redis").mkdir(parents=True)
    (home / "redis" / "appendonly.aof").write_text("this is no append-only file\n" * 10)
    with pytest.raises(EmbeddedRedisFailed, match="Bad file format"):
        ensure_running(home)


def test_a_server_that_hangs_is_not_given_a_rival(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = ensure_running(home)
    pid = server_pid(url)
    monkeypatch.setattr(embedded_redis, "_PROBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(embedded_redis, "_START_TIMEOUT_S", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedRedisFailed, match="has not answered"):
            ensure_running(home)
        assert not has_died(home)
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert server_pid(ensure_running(home)) == pid


def test_only_an_end_that_nobody_asked_for_is_a_death(home: Path) -> None:
    assert not has_died(home)
    url = ensure_running(home)
    assert not has_died(home)
    stop(home)
    assert not has_died(home)
    ensure_running(home)
    os.kill(server_pid(url), signal.SIGKILL)
    wait_until(lambda: has_died(home))


def test_missing_binary_says_what_to_do(home: Path) -> None:
    script = (
        "import sys, pathlib; sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        "import app.embedded_redis as e; sys.path_importer_cache.clear()\n"
        "try: e.ensure_running(pathlib.Path(sys.argv[1]))\n"
        "except e.EmbeddedRedisFailed as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)], capture_output=True, text=True, check=True, env={"PATH": "/nowhere"}
    )
    assert "TESSERA_REDIS_URL" in done.stdout
    assert embedded_redis.server_binary().exists()
