"""What is taken out of a list because items changed while it was made leaves nothing behind."""

from pathlib import Path

import numpy as np
import pytest

from app.draft import Draft
from app.recommendation import Reason, Source, Wanted
from app.served_model import ServedModel
from app.user_state import UserState
from model_store.bundle import Bundle, ModelStore
from model_store.item_records import ItemRecord

MAX_AGE_S = 100.0


@pytest.fixture
def model(store: Path, bundle: Bundle) -> ServedModel:
    return ServedModel.open(ModelStore(store), bundle.version, filter_cache_bytes=1 << 20)


def add(draft: Draft, items: list[int], reason: Reason, source: Source) -> None:
    draft.add(np.array(items), np.zeros(len(items)), reason, source)


def test_source_is_that_of_the_first_item_that_is_left(model: ServedModel) -> None:
    draft = Draft(model, Wanted(n=3), UserState(), MAX_AGE_S)
    add(draft, [9], "cache", "cache")
    add(draft, [8, 7], "live", "live")
    model.eligibility.apply({"item-9": ItemRecord(hidden=True)})
    assert draft.drop_removed()
    answer = draft.finish()
    assert (answer.source, [item.item_id for item in answer.items]) == ("live", ["item-8", "item-7"])
    assert draft.given() == {"live": 2}


def test_items_that_are_taken_out_give_their_room_back(model: ServedModel) -> None:
    codes = model.bundle.item_codes.codes_NL[:, 0].tolist()
    first, second = next(
        (one, two) for one in range(50) for two in range(one) if codes[one] == codes[two] and {one, two} <= shown(model)
    )
    draft = Draft(model, Wanted(n=3, max_per_prefix=1), UserState(), MAX_AGE_S)
    add(draft, [first, second], "cache", "cache")
    assert draft.items == [first]
    model.eligibility.apply({f"item-{first}": ItemRecord(deleted=True)})
    assert draft.drop_removed()
    add(draft, [second], "popular", "popular")
    assert draft.items == [second]


def shown(model: ServedModel) -> set[int]:
    return set(np.flatnonzero(model.catalog.available).tolist())
