"""What a refresh has written is found again, user by user."""

import numpy as np

from offline.refresh.entry_scan import scan_entries
from tests.cached_entries import put_packed
from tests.offline.refresh.conftest import KEYS


def test_a_scan_finds_every_entry_once_and_as_it_was_written(redis, refresh, bundle, users):
    refresh(users)
    put_packed(redis, KEYS, bundle.entry_layout, "odd", b"\x09nonsense")
    found = {}
    for part in scan_entries(redis, KEYS, bundle.entry_layout):
        for row, user in enumerate(part.users):
            assert user not in found
            found[user] = part.entries.readable[row]
            if user != "odd":
                entry = refresh.entry(user)
                count = part.entries.counts[row]
                np.testing.assert_array_equal(part.entries.codes_UKL[row, :count], entry.codes_KL)
                np.testing.assert_array_equal(part.entries.scores_UK[row, :count], entry.scores)
                assert part.entries.decoded_at[row] == entry.decoded_at
    assert found == dict.fromkeys(users, True) | {"odd": False}


def test_only_the_buckets_asked_for_are_read(redis, refresh, bundle, users):
    refresh(users)
    wanted = range(0, bundle.entry_layout.buckets, 2)
    found = {user for part in scan_entries(redis, KEYS, bundle.entry_layout, wanted) for user in part.users}
    assert found == {user for user in users if bundle.entry_layout.bucket_of(user) % 2 == 0}
