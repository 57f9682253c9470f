"""What is hidden, deleted or sold out over HTTP, or withheld from a user, is in no entry of a later refresh."""

import asyncio

import numpy as np
import pytest
from pydantic import SecretStr

from app.settings import Settings
from model_store.decoders.protocol import DecodeRequest
from model_store.prefix_trie import EligibleItems
from offline import item_changes
from offline.item_changes import ItemChanges, ShownItems
from offline.refresh.priority import PriorityRule
from offline.refresh.selected_refresh import run_selected_refresh
from offline.refresh.selection import select_everyone
from offline.refresh.user_refresh import UserRefresh
from tests.app.conftest import running
from tests.offline.refresh.conftest import CONFIG, KEYS, RANKED

RULE = PriorityRule(86_400, need=5)


@pytest.fixture
def api(redis, bundle):
    """Sends requests to a real application on the same Redis and version."""
    address = f"unix://{redis.connection_pool.connection_kwargs['path']}"
    settings = Settings(
        store=bundle.path.parent,
        redis_url=SecretStr(address),
        namespace=KEYS.namespace,
        decoder_address="none",
    )

    def send(*requests, compact=False):
        async def sent():
            async with running(settings) as app:
                for method, path, body in requests:
                    answer = await app.client.request(method, path, json=body)
                    assert answer.is_success, answer.text
                if compact:
                    await app.services.item_log.compact()

        asyncio.run(sent())

    return send


def items_of(refresh, bundle, user):
    codes = refresh.entry(user).codes_KL
    return bundle.item_codes.items_of(codes).tolist()


def test_without_changes_entries_are_those_of_the_model(redis, bundle, decoder, dataset, refresh, users):
    in_stock = EligibleItems.from_mask(bundle.trie, bundle.catalog.available)
    refresh(users)
    for row, user in enumerate(users[:20]):
        history = dataset.history(row).astype(np.int32)
        (decoded,) = decoder.decode(
            [DecodeRequest(history=history, n=5, beam_width=10, excluded=history, eligible=in_stock)]
        )
        assert items_of(refresh, bundle, user) == [one.item for one in decoded]
        scores = [one.score for one in decoded]
        assert refresh.entry(user).scores.tolist() == pytest.approx(scores, rel=2e-3)


@pytest.mark.parametrize("compact", [False, True])
def test_items_that_were_taken_away_are_in_no_entry(redis, bundle, refresh, users, api, compact):
    refresh(users)
    ids = bundle.catalog.item_ids
    hidden, deleted, sold = (items_of(refresh, bundle, users[0])[place] for place in (0, 1, 2))
    api(
        ("PATCH", f"/items/{ids[hidden]}", {"hidden": True}),
        ("DELETE", f"/items/{ids[deleted]}", None),
        ("PATCH", f"/items/{ids[sold]}", {"in_stock": False}),
        compact=compact,
    )
    refresh(users)
    gone = {hidden, deleted, sold}
    for user in users:
        items = items_of(refresh, bundle, user)
        assert len(items) == 5
        assert not gone & set(items)


def test_items_that_were_taken_away_are_in_no_ranked_entry(redis, ranked_bundle, refresh, users, api):
    refresh(users, bundle=ranked_bundle, config=RANKED)
    ids = ranked_bundle.catalog.item_ids
    hidden, deleted, blocked = (items_of(refresh, ranked_bundle, users[0])[place] for place in (0, 1, 2))
    api(
        ("PATCH", f"/items/{ids[hidden]}", {"hidden": True}),
        ("DELETE", f"/items/{ids[deleted]}", None),
        ("PATCH", f"/users/{users[0]}/blocks", {"block": [ids[blocked]]}),
    )
    refresh(users, bundle=ranked_bundle, config=RANKED)
    for user in users:
        entry = refresh.entry(user)
        items = items_of(refresh, ranked_bundle, user)
        assert (len(items), entry.generator) == (5, "torch+ranker")
        assert not {hidden, deleted} & set(items)
    assert blocked not in items_of(refresh, ranked_bundle, users[0])


def test_entries_that_lost_items_are_refreshed_first_and_once(redis, bundle, decoder, refresh, users, api):
    refresh(users)
    assert select_everyone(redis, KEYS, bundle, RULE).users == []
    lost = items_of(refresh, bundle, users[0])[0]
    having = {user for user in users if lost in items_of(refresh, bundle, user)}
    api(("PATCH", f"/items/{bundle.catalog.item_ids[lost]}", {"in_stock": False}))
    selection = select_everyone(redis, KEYS, bundle, RULE)
    assert set(selection.users) == having
    assert selection.count_reasons() == {"short": len(having)}
    by_user = UserRefresh(redis, KEYS, bundle, decoder, CONFIG)
    run_selected_refresh(bundle.version, by_user, bundle.entry_layout, selection, config=CONFIG)
    assert select_everyone(redis, KEYS, bundle, RULE).users == []
    assert not any(lost in items_of(refresh, bundle, user) for user in users)


def test_what_is_withheld_from_a_user_is_in_that_users_entry_alone_not(redis, bundle, refresh, users, api):
    refresh(users)
    before = {user: items_of(refresh, bundle, user) for user in users}
    blocked = before[users[0]][0]
    api(("PATCH", f"/users/{users[0]}/blocks", {"block": [bundle.catalog.item_ids[blocked]]}))
    refresh(users)
    assert blocked not in items_of(refresh, bundle, users[0])
    assert len(items_of(refresh, bundle, users[0])) == 5
    assert {user: items_of(refresh, bundle, user) for user in users[1:]} == {user: before[user] for user in users[1:]}


def test_changes_made_during_a_refresh_count_from_then_on(redis, bundle, decoder, users, api):
    shown, available = UserRefresh(redis, KEYS, bundle, decoder, CONFIG).shown, bundle.catalog.available
    item = int(np.flatnonzero(available)[0])
    before = shown.eligible()
    assert np.array_equal(before.mask, available)
    api(("PATCH", f"/items/{bundle.catalog.item_ids[item]}", {"hidden": True}))
    closed = shown.eligible()
    assert np.flatnonzero(closed.mask != available).tolist() == [item]
    assert shown.eligible() is closed, "the mask is made once"
    api(("PATCH", f"/items/{bundle.catalog.item_ids[item]}", {"hidden": False}))
    assert np.array_equal(shown.eligible().mask, available)
    assert not closed.mask[item], "a mask somebody holds stays as it was"


def test_whoever_has_not_read_for_long_reads_everything_anew(redis, bundle, api, monkeypatch):
    changes = ItemChanges(redis, KEYS)
    changes.read_on()
    api(("PATCH", f"/items/{bundle.catalog.item_ids[3]}", {"hidden": True}), compact=True)
    # As the service cuts it off behind one who stopped for ten minutes.
    redis.xtrim(KEYS.items_log, maxlen=0, approximate=False)
    monkeypatch.setattr(item_changes, "_UNREAD_S", -1)
    assert changes.read_on()
    assert changes.records == {bundle.catalog.item_ids[3]: {"hidden": True}}
    assert not ShownItems(redis, KEYS, bundle).mask()[3]
