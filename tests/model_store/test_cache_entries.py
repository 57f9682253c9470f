import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_store.cache_entries import GENERATORS, CacheEntry, EntryTable, packed_bytes
from model_store.cache_keys import Keys
from model_store.errors import CacheEntryUnreadable


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(0, 50), st.just(4))),
    st.integers(0, 2**32 - 1),
    st.sampled_from(GENERATORS),
)
def test_an_entry_reads_back_as_it_was_written(codes, decoded_at, generator):
    scores = np.linspace(-20, 0, len(codes)).astype(np.float16)
    entry = CacheEntry.unpack(CacheEntry(codes, scores, 2**32 - 7, decoded_at, generator).pack())
    assert entry.codes_KL.tolist() == codes.tolist()
    assert entry.scores.tolist() == scores.tolist()
    assert (entry.history_digest, entry.decoded_at, entry.generator) == (2**32 - 7, decoded_at, generator)


def test_the_stored_form_is_pinned():
    entry = CacheEntry(
        np.array([[1, 2, 3, 4]], np.uint8), np.array([-1.5], np.float16), 0x01020304, 1_700_000_000, "torch"
    )
    assert entry.pack().hex() == "02010100" + "00f15365" + "04030201" + "01020304" + "00be"


@given(st.binary(max_size=60))
def test_rubbish_is_refused_or_read_never_crashes(value):
    with contextlib.suppress(CacheEntryUnreadable):
        assert CacheEntry.unpack(value).pack() == value


def test_another_format_is_refused_by_its_number():
    with pytest.raises(CacheEntryUnreadable, match="format 9"):
        CacheEntry.unpack(bytes([9, *[0] * 11]))


def test_a_history_key_gives_its_user_back():
    keys = Keys("shop[1]")
    assert keys.user_of_history(keys.history("a:b:hist:c")) == "a:b:hist:c"
    assert keys.histories() == "shop\\[1\\]:hist:*"


def test_a_table_holds_lists_of_any_length_and_none():
    entries = [
        CacheEntry(np.full((count, 4), count, np.uint8), np.arange(0, -count, -1, np.float16), count, 7, "torch")
        for count in (2, 0, 3, 2)
    ]
    values = [entry.pack() for entry in entries]
    assert [len(value) for value in values] == [packed_bytes(len(entry.scores)) for entry in entries]
    table = EntryTable.unpack([*values, b"", b"\x09nonsense"])
    assert table.readable.tolist() == [True] * 4 + [False] * 2
    assert table.counts.tolist() == [2, 0, 3, 2, 0, 0]
    for row, entry in enumerate(entries):
        np.testing.assert_array_equal(table.codes_UKL[row, : table.counts[row]], entry.codes_KL)
        np.testing.assert_array_equal(table.scores_UK[row, : table.counts[row]], entry.scores)
    assert EntryTable.unpack(values[1:2]).readable.tolist() == [True]
