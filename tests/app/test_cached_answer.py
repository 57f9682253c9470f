"""The short way to a cached answer says what the long way says, or nothing."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app.cached_answer import cached_answer, is_simple
from app.draft import Draft
from app.eligibility import ItemFilter
from app.items_by_code import MAX_KEPT, ItemsByCode
from app.json_response import json_bytes
from app.recommendation import Wanted
from app.served_model import ServedModel
from app.user_state import StoredUser, UserState
from model_store.bundle import Bundle, ModelStore
from model_store.cache_entries import CacheEntry, history_digest
from model_store.item_codes import code_text
from model_store.item_records import ItemRecord, is_withheld
from tests.app.light_bundle import CATEGORIES

ITEMS = 50
MAX_AGE_S = 100.0

entries = st.one_of(
    st.tuples(st.permutations(range(ITEMS)), st.integers(10, 40)).map(lambda drawn: drawn[0][: drawn[1]]),
    st.lists(st.integers(-1, ITEMS - 1), max_size=30),
)
"""Items of an entry; -1 for a code that no item has."""
stored_ids = st.one_of(
    st.integers(0, ITEMS + 5).map(lambda item: f"item-{item}".encode()), st.sampled_from([b"gone", b"\xff\xfe", b""])
)
wanteds = st.builds(
    Wanted,
    n=st.integers(1, 20),
    offset=st.integers(0, 8),
    item_filter=st.builds(
        ItemFilter,
        st.frozensets(st.sampled_from(CATEGORIES), max_size=1),
        st.none() | st.floats(0, 60),
        st.none() | st.floats(60, 100),
        st.booleans(),
    )
    | st.just(ItemFilter()),
    exclude=st.lists(st.integers(0, ITEMS + 3).map(lambda item: f"item-{item}"), max_size=5).map(tuple),
    fresh=st.booleans(),
    strict=st.booleans(),
    write_back_after_s=st.none() | st.just(0.0),
)
item_changes = st.dictionaries(
    st.integers(0, ITEMS - 1),
    st.sampled_from(
        [
            ItemRecord(hidden=True),
            ItemRecord(deleted=True),
            ItemRecord(in_stock=False),
            ItemRecord(in_stock=True),
            ItemRecord(price=30.0),
            ItemRecord(price=None),
            ItemRecord(categories=[]),
            ItemRecord(categories=list(CATEGORIES)),
        ]
    ),
    max_size=12,
)
"""What the overlay has of items that were changed since their catalogue was published."""


@pytest.fixture(scope="module")
def model(store: Any, bundle: Bundle) -> ServedModel:
    return ServedModel.open(ModelStore(store), bundle.version, filter_cache_bytes=1 << 20)


def long_way(model: ServedModel, user_id: str, wanted: Wanted, stored: StoredUser) -> Draft:
    """What the recommender's first step makes of the same."""
    assert stored.packed is not None
    entry = CacheEntry.unpack(stored.packed)
    dirty = bool(stored.history) and entry.history_digest != history_digest(stored.history)
    history, withheld = (
        tuple(item.decode(errors="replace") for item in ids) for ids in (stored.history, stored.withheld)
    )
    state = UserState(entry, history, dirty, withheld)
    asked = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
    draft = Draft(model, Wanted(**(asked | {"user_id": user_id})), state, MAX_AGE_S)
    found = model.items_of_codes(entry.codes_KL)
    draft.add(found, entry.scores, "cache", "stale_cache" if draft.stale else "cache")
    return draft


@pytest.fixture(autouse=True)
def unchanged_items(model: ServedModel) -> Iterator[None]:
    """No test leaves changes of items to the next."""
    yield
    change_items(model, {})


def change_items(model: ServedModel, changes: Mapping[int, ItemRecord]) -> None:
    """Have these changes of items in force, and no others."""
    model.eligibility.apply({f"item-{item}": changes.get(item) for item in range(ITEMS)})


@given(
    entry=entries,
    history=st.lists(stored_ids, max_size=12),
    withheld=st.lists(stored_ids, max_size=6),
    changed=item_changes,
    user_id=st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()),
    wanted=wanteds,
    age_s=st.integers(-3, 200),
    same_history=st.booleans(),
)
@hypothesis_settings(max_examples=600, deadline=None)
def test_both_ways_say_the_same(
    model: ServedModel,
    entry: list[int],
    history: list[bytes],
    withheld: list[bytes],
    changed: dict[int, ItemRecord],
    user_id: str,
    wanted: Wanted,
    age_s: int,
    same_history: bool,
) -> None:
    rows = model.bundle.item_codes.codes_NL
    codes_KL = np.array([rows[item] if item >= 0 else [255] * 4 for item in entry], dtype=np.uint8).reshape(-1, 4)
    scores = (np.arange(len(entry)) * -0.37).astype(np.float16)
    digest = history_digest(history) ^ (not same_history)
    packed = CacheEntry(codes_KL, scores, digest, int(time.time()) - age_s, "torch").pack()
    stored = StoredUser(packed, history, withheld)
    change_items(model, changed)
    draft = long_way(model, user_id, wanted, stored)
    quick = cached_answer(model, user_id, wanted, stored, MAX_AGE_S, draft.now)
    if quick is None:
        repeated = len(set(entry)) < len(entry)
        assert draft.missing or repeated or (wanted.fresh and draft.stale), "the short way gives up without need"
        return
    answer = draft.finish()
    short, long = orjson.loads(quick.body), orjson.loads(json_bytes(answer))
    assert list(short) == list(long), "the fields come in the same order"
    assert short.pop("recommendation_id") == quick.recommendation_id != long.pop("recommendation_id")
    assert short == long
    assert quick.item_ids == [item.item_id for item in answer.items]
    assert quick.known == draft.personal
    assert (quick.known and quick.source != "cache") == draft.outdated
    assert (quick.source == "cache") == draft.fresh
    assert draft.given() == {"cache": wanted.offset + wanted.n}
    never = {item.decode(errors="replace") for item in withheld}
    never |= {f"item-{item}" for item, record in changed.items() if is_withheld(record)}
    assert never.isdisjoint(quick.item_ids)


@pytest.mark.parametrize("packed", [None, b"", b"\x09nonsense", b"\x02\x01\x05\x00" + bytes(8)])
def test_no_entry_that_can_be_read_is_no_answer(model: ServedModel, packed: bytes | None) -> None:
    assert cached_answer(model, "ann", Wanted(), StoredUser(packed, [], []), MAX_AGE_S, time.time()) is None


@pytest.mark.parametrize(
    "asked",
    [
        {"explain": True},
        {"query": "tea"},
        {"within": "cache"},
        {"only": ()},
        {"max_per_prefix": 2},
        {"history": ("a",)},
    ],
)
def test_what_an_entry_alone_cannot_answer(asked: dict[str, Any]) -> None:
    assert is_simple(Wanted(n=3, offset=2, exclude=("item-1",), fresh=True, strict=True))
    assert not is_simple(Wanted(**asked))


def test_looking_items_up_keeps_a_bounded_number_of_codes(bundle: Bundle) -> None:
    lookup = ItemsByCode(bundle.item_codes, bundle.catalog)
    packed = bundle.item_codes.packed.tolist()
    for start in range(0, MAX_KEPT * 2, 1000):
        found = lookup.of([*range(2**31 + start, 2**31 + start + 1000), packed[7]])
        assert found is not None
        assert set(found[:-1]) == {None}
        assert found[-1] is not None
        row, item_id, stored_id, before, after = found[-1]
        assert (row, item_id, stored_id) == (7, "item-7", b"item-7")
        assert orjson.loads(before + b'1,"score":-0.5' + after) == {
            **{"item_id": "item-7", "rank": 1, "score": -0.5, "reason": "cache"},
            "code": code_text(bundle.item_codes.codes_NL[7]),
        }
        assert len(lookup) <= MAX_KEPT
