"""The formulas of docs/cache.md, against what Redis says it uses, and the table that is made of them."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from app.embedded_redis import ensure_running, stop
from model_store.cache_entries import pack_entries
from model_store.cache_keys import EntryLayout, buckets_for
from offline.redis_connection import connect
from tests.offline.refresh.conftest import KEYS

CACHE = Path(__file__).parents[3] / "docs" / "cache.md"
USERS = 20_000


def entry_bytes(k, id_bytes, users_of_bucket):
    return id_bytes + 6 * k + 16 + 200 / users_of_bucket


def history_bytes(events, id_bytes, item_id_bytes):
    return 225 + id_bytes + events * (item_id_bytes + 2)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    yield connect(ensure_running(home))
    stop(home)


@pytest.fixture
def grown(redis):
    """By how many bytes a user the used memory has grown since the test began."""

    def settled():
        before = 0
        while abs((now := redis.info("memory")["used_memory"]) - before) > 4096:
            before = now
            time.sleep(0.05)
        return now

    begin = settled()
    return lambda: (settled() - begin) / USERS


@pytest.mark.parametrize(
    ("k", "id_bytes", "buckets"),
    [(20, 10, buckets_for(USERS)), (20, 36, 1024), (20, 10, 1024), (50, 10, 512), (5, 16, 256), (100, 8, 512)],
)
def test_an_entry_takes_what_the_manual_says(redis, grown, k, id_bytes, buckets):
    layout = EntryLayout("20260101-000000-0a1b2c", buckets)
    random = np.random.default_rng(0)
    codes_UKL = random.integers(256, size=(USERS, k, 4), dtype=np.uint8)
    entries = pack_entries(codes_UKL, random.normal(size=(USERS, k)), np.zeros(USERS, np.uint32), 1, "torch")
    pipeline = redis.pipeline(transaction=False)
    for number, entry in enumerate(entries):
        user = f"{number:0{id_bytes}}"
        pipeline.hset(KEYS.bucket_of(layout, user), user, entry)
    for number in range(buckets):
        pipeline.expire(KEYS.bucket(layout, number), 1_000_000)
    pipeline.execute()
    assert grown() == pytest.approx(entry_bytes(k, id_bytes, USERS / buckets), rel=0.1)


@pytest.mark.parametrize(("events", "item_id_bytes"), [(1, 10), (50, 10), (50, 24), (200, 10)])
def test_a_history_takes_what_the_manual_says(redis, grown, events, item_id_bytes):
    items = [f"{item:0{item_id_bytes}}" for item in range(events)]
    pipeline = redis.pipeline(transaction=False)
    for number in range(USERS):
        key = KEYS.history(f"{number:010}")
        pipeline.rpush(key, *items)
        pipeline.expire(key, 1_000_000)
    pipeline.execute()
    assert grown() == pytest.approx(history_bytes(events, 10, item_id_bytes), rel=0.1)


def test_the_manual_has_these_formulas():
    text = CACHE.read_text(encoding="utf-8")
    assert "id + 6 K + 16 + 200 / n" in text
    assert "225 + id + H (item + 2)" in text


def test_the_table_of_the_manual_is_made_of_them():
    """Ids of 10 bytes, histories of 50 events, and a tenth more for jemalloc."""
    text = CACHE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) million \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [1, 10, 100]
    for millions, n, *gigabytes in rows:
        users = int(millions) * 1_000_000
        users_of_bucket = users / buckets_for(users)
        assert float(n) == pytest.approx(users_of_bucket, abs=0.05)
        expected = (
            entry_bytes(20, 10, users_of_bucket),
            entry_bytes(50, 10, users_of_bucket),
            history_bytes(50, 10, 10),
        )
        for told, of_user in zip(map(float, gigabytes), expected, strict=True):
            assert told == pytest.approx(1.1 * of_user * users / 1e9, rel=0.01)
