"""Keys that one transaction writes are in one slot of a cluster, whatever a user's id is."""

from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from model_store.cache_keys import Keys

IDS = st.text("ab{}:é", min_size=1, max_size=8)


@given(IDS)
@example("ann")
@example("a{x}b")
@example("a}b")
@example("{}")
@example("}{y}")
def test_event_ids_are_in_the_slot_of_the_history(user: str) -> None:
    keys = Keys("shop")
    assert key_slot(keys.event_ids(user).encode()) == key_slot(keys.history(user).encode())
    assert keys.event_ids(user).startswith("shop:")


@given(IDS, IDS)
def test_users_have_keys_of_their_own(one: str, other: str) -> None:
    keys = Keys("shop")
    assert (keys.event_ids(one) == keys.event_ids(other)) == (one == other)
