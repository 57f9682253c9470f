"""Refresh and service on a Redis Cluster of six real nodes, keys spread over three masters."""

import asyncio
from dataclasses import replace

import pytest
import redis

from app.settings import Settings
from model_store.bundle import ModelStore
from model_store.cache_entries import CacheEntry, history_digest
from model_store.cache_keys import Keys
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.backup.backup import back_up
from offline.backup.restore import restore
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.redis_connection import connect, told
from offline.refresh.config import RefreshConfig
from offline.refresh.histories import import_histories, users_with_history
from offline.refresh.job import on_this_machine, run_refresh
from offline.refresh.ledger import Ledger, Plan
from offline.refresh.priority import PriorityRule
from offline.refresh.selection import select_everyone
from offline.refresh.shard_refresh import ShardRefresh
from offline.refresh.user_plan import user_plan
from offline.refresh.user_refresh import UserRefresh
from tests.app.conftest import ids, running
from tests.cached_entries import cached_users, packed_entry
from tests.offline.refresh.conftest import record_event
from tests.redis_servers import NODE_TIMEOUT_S, cluster, server, wait_until
from tests.tiny_bundle import build_tiny_bundle

pytestmark = pytest.mark.anyio

KEYS = Keys("test")
CONFIG = RefreshConfig(k=5, beam_width=10, shard_users=10)


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=90, items=40, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, dataset):
    return build_tiny_bundle(tmp_path_factory.mktemp("store"), catalog=dataset.catalog)


@pytest.fixture(scope="module")
def decoder(bundle):
    return TorchDecoder.from_bundle(bundle, device="cpu")


@pytest.fixture
def users(nodes, dataset):
    """Everyone of the shop, their histories in a cluster that was empty."""
    client = connect(nodes.url)
    client.flushall(target_nodes=client.PRIMARIES)
    import_histories(client, KEYS, dataset, CONFIG)
    client.close()
    return list(dataset.user_ids)


def refresh(url, bundle, decoder, users, *, resume=False, partial=False):
    """Refresh as the command does."""
    client = connect(url)
    ledger = Ledger(client, KEYS, bundle.version, partial=partial)
    by_user = UserRefresh(client, KEYS, bundle, decoder, CONFIG)
    with user_plan(users, bundle.entry_layout) as listed:
        run = on_this_machine(ShardRefresh(by_user, ledger, forget_departed=not partial))
        plan = Plan.of(bundle, CONFIG, listed.buckets_per_shard(CONFIG.shard_users))
        return run_refresh(bundle.version, listed, run, ledger, plan, resume=resume)


def test_a_refresh_writes_every_entry_and_spreads_them_over_the_masters(nodes, bundle, decoder, users):
    summary = refresh(nodes.url, bundle, decoder, users)
    assert (summary.users, summary.coverage) == (90, 1)
    assert cached_users(connect(nodes.url), KEYS, bundle.entry_layout) == set(users)
    for port in nodes.masters():
        assert any(b":entries:" in key for key in redis.Redis(port=port).scan_iter())


def test_users_with_a_history_are_found_on_all_nodes(nodes, users):
    assert sorted(users_with_history(connect(nodes.url), KEYS)) == sorted(users)
    for port in nodes.masters():
        found = {KEYS.user_of_history(key.decode()) for key in redis.Redis(port=port).scan_iter(KEYS.histories())}
        assert set() < found < set(users)


def test_stale_and_departed_users_are_found_on_all_nodes(nodes, bundle, decoder, dataset, users):
    client = connect(nodes.url)
    refresh(nodes.url, bundle, decoder, users[:80])
    record_event(client, users[0], dataset.catalog.item_ids[0], keys=KEYS)
    due = select_everyone(client, KEYS, bundle, PriorityRule(86_400, need=5))
    assert set(due.users) == {users[0], *users[80:]}
    client.delete(KEYS.history(users[5]))
    refresh(nodes.url, bundle, decoder, [user for user in users if user != users[5]])
    assert cached_users(client, KEYS, bundle.entry_layout) == set(users) - {users[5]}
    assert select_everyone(client, KEYS, bundle, PriorityRule(86_400, need=5)).users == []
    assert not client.exists(KEYS.dirty)


async def test_events_with_ids_are_recorded_once_whatever_node_has_the_user(nodes, bundle, users, dataset, tmp_path):
    settings = Settings(store=bundle.path.parent, home=tmp_path, redis_url=nodes.url, namespace=KEYS.namespace)
    client = connect(nodes.url)
    known = dataset.catalog.item_ids
    named = [*users[:40], "a}b", "a{x}b", "{}"]
    before = {user: client.llen(KEYS.history(user)) for user in named}
    sent = [{"user_id": user, "item_id": known[row], "id": str(row)} for user in named for row in range(3)]
    async with running(settings) as one, running(settings) as other:
        answers = await asyncio.gather(*(app.client.post("/events", json=sent) for app in (one, other, one)))
        assert [answer.status_code for answer in answers] == [200] * 3
        assert sum(answer.json()["duplicates"] for answer in answers) == 2 * len(sent)
        assert {user: client.llen(KEYS.history(user)) - before[user] for user in named} == dict.fromkeys(named, 3)
        assert client.zcard(KEYS.dirty) == len(named)
        read = await one.client.get(f"/recommend/{users[0]}?n=2&write_back_type=read")
        await one.services.write_back.flush()
        assert client.zcard(KEYS.withheld(users[0])) == 2
        click = {"recommendation_id": read.json()["recommendation_id"], "item_id": ids(read)[0], "user_id": users[0]}
        await other.client.post("/events", json=[click])
        await one.services.attribution.flush()
        await other.services.attribution.flush()
        days = (await one.client.get("/quality")).json()["days"]
        assert [(day["shown"], day["hits"]) for day in days] == [(2, 1)]
        await other.services.popular_windows.flush()
        assert ids(await one.client.get("/popular?window=1h&n=3"))
        for user in named:
            assert (await other.client.delete(f"/users/{user}")).json()["existed"]
        assert not list(client.scan_iter(f"{KEYS.namespace}:events:*"))


async def test_the_service_answers_records_writes_back_and_forgets(nodes, bundle, decoder, users, dataset, tmp_path):
    refresh(nodes.url, bundle, decoder, users)
    settings = Settings(store=bundle.path.parent, home=tmp_path, redis_url=nodes.url, namespace=KEYS.namespace)
    client = connect(nodes.url)
    async with running(settings) as app:
        for user in users[:10]:
            answer = await app.client.get(f"/recommend/{user}", params={"n": 5})
            entry = CacheEntry.unpack(packed_entry(client, KEYS, bundle.entry_layout, user))
            items = [dataset.catalog.item_ids[item] for item in bundle.item_codes.items_of(entry.codes_KL)]
            assert (answer.json()["source"], ids(answer)) == ("cache", items)
        batch = await app.client.post("/recommend/batch", json={"user_ids": users[:20], "n": 5})
        assert {answer["source"] for answer in batch.json()["answers"]} == {"cache"}
        new = dataset.catalog.item_ids[7]
        events = [{"user_id": user, "item_id": new} for user in users[:10]]
        recorded = await app.client.post("/events", json=events)
        assert recorded.is_success
        assert [client.lrange(KEYS.history(user), -1, -1) for user in users[:10]] == [[new.encode()]] * 10
        assert client.zcard(KEYS.dirty) == 10
        cache, layout = app.services.cache, bundle.entry_layout
        state = await cache.read(layout, users[0])
        digest = history_digest(item.encode() for item in state.history)
        await cache.store(layout, users[0], replace(state.entry, history_digest=digest), state.history)
        assert not (await cache.read(layout, users[0])).dirty
        await cache.put_off_expiry(layout)
        for user in users[:10]:
            assert (await app.client.delete(f"/users/{user}")).is_success
            assert packed_entry(client, KEYS, layout, user) is None
            assert not client.exists(KEYS.history(user))


def test_a_backup_has_the_keys_of_all_nodes_and_goes_into_a_single_redis_and_back(
    nodes, bundle, decoder, users, tmp_path
):
    refresh(nodes.url, bundle, decoder, users)
    client, store = connect(nodes.url), ModelStore(tmp_path / "store")
    done = back_up(client, KEYS, tmp_path / "cluster.tar")
    assert done.keys["list"] == len(users)
    with server(tmp_path / "single") as port:
        single = connect(f"redis://127.0.0.1:{port}")
        assert restore(single, KEYS, tmp_path / "cluster.tar", store).keys == done.keys
        assert cached_users(single, KEYS, bundle.entry_layout) == set(users)
        back_up(single, KEYS, tmp_path / "single.tar")
    histories = {user: client.lrange(KEYS.history(user), 0, -1) for user in users}
    assert restore(client, KEYS, tmp_path / "single.tar", store, force=True).replaced == sum(done.keys.values())
    assert {user: client.lrange(KEYS.history(user), 0, -1) for user in users} == histories
    assert cached_users(client, KEYS, bundle.entry_layout) == set(users)


def test_a_master_killed_during_a_refresh_is_replaced_and_resume_goes_on(nodes, bundle, decoder, users):
    killed = []

    class KillsAMaster:
        name = decoder.name

        def __init__(self):
            self.left = 3

        def decode(self, requests):
            self.left -= 1
            if not self.left:
                killed.append(nodes.kill_a_master())
            return decoder.decode(requests)

    with pytest.raises(TesseraError, match="--resume") as failure:
        refresh(nodes.url, bundle, KillsAMaster(), users)
    assert "\n" not in str(failure.value)
    # A replica is elected within a second node timeout; nodes hear of it from each other.
    wait_until(lambda: len(nodes.masters()) == 3, 5 * NODE_TIMEOUT_S)
    nodes.wait_until_whole()
    done = connect(nodes.url).hlen(KEYS.refresh_ledger(bundle.version)) - 1
    assert done >= 1
    summary = refresh(nodes.url, bundle, decoder, users, resume=True)
    assert (summary.users, summary.coverage) == (90, 1)
    assert cached_users(connect(nodes.url), KEYS, bundle.entry_layout) == set(users)
    assert killed


def test_a_cluster_that_is_away_is_one_line_whatever_was_being_done(tmp_path):
    with cluster(tmp_path) as nodes:
        client = connect(nodes.url)
    with pytest.raises(TesseraError, match="cache stats: Redis said") as failure, told("cache stats"):
        client.hgetall(KEYS.caches)
    assert "\n" not in str(failure.value)
