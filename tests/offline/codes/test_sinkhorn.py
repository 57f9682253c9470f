import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from offline.codes.sinkhorn import balanced_assignment, separate_colliding

distances = st.integers(1, 40).flatmap(
    lambda items: st.integers(1, 12).flatmap(
        lambda entries: arrays.arrays(np.float32, (items, entries), elements=st.floats(0, 100, width=32))
    )
)


@settings(max_examples=100, deadline=None)
@given(distances)
def test_every_item_gets_an_entry_and_no_entry_more_than_its_share(distance):
    items, entries = distance.shape
    assigned = balanced_assignment(distance)
    assert assigned.shape == (items,)
    assert ((assigned >= 0) & (assigned < entries)).all()
    assert np.bincount(assigned, minlength=entries).max() <= -(-items // entries)


def test_items_that_want_different_entries_get_them():
    wanted = np.random.default_rng(0).permutation(20)
    distance = np.ones((20, 30))
    distance[np.arange(20), wanted] = 0
    assert (balanced_assignment(distance) == wanted).all()


def test_of_two_items_that_want_one_entry_the_one_with_more_to_lose_gets_it():
    distance = np.array([[0.0, 0.1, 9.0], [0.0, 5.0, 9.0]])
    assert balanced_assignment(distance).tolist() == [1, 0]


def test_an_entry_far_from_everyone_stays_empty_when_there_are_near_ones():
    """Balance bounds an entry's load; it does not make anyone fill it."""
    distance = np.tile(np.array([0.0, 0.1, 0.2, 50.0, 60.0]), (3, 1))
    assert sorted(balanced_assignment(distance).tolist()) == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.integers(0, 5))
def test_only_items_that_collide_move_and_only_to_entries_nobody_of_their_prefix_has(count, seed):
    random = np.random.default_rng(seed)
    entries = 8
    codebooks = np.zeros((4, 256, 3), dtype=np.float32)
    codebooks[:, :entries] = random.normal(size=(4, entries, 3))
    codes = np.zeros((count, 4), dtype=np.uint8)
    codes[:, 2] = random.integers(0, 3, count)
    codes[:, 3] = random.integers(0, entries, count)
    vectors = random.normal(size=(count, 3)).astype(np.float32)
    separated, moved = separate_colliding(codes, vectors, codebooks, entries)

    assert (separated[:, :3] == codes[:, :3]).all()
    assert (separated < entries).all()
    assert moved == (separated != codes).any(axis=1).sum()
    sharing = (codes[:, None] == codes[None]).all(axis=2).sum(axis=1) > 1
    assert (separated[~sharing] == codes[~sharing]).all()
    for prefix in np.unique(codes[:, 2]):
        members = codes[:, 2] == prefix
        if members.sum() <= entries:
            assert len(np.unique(separated[members], axis=0)) == members.sum()
        alone = set(map(tuple, codes[members & ~sharing]))
        assert not alone & set(map(tuple, separated[members & sharing]))


def test_codes_that_do_not_collide_are_left_alone():
    codes = np.random.default_rng(0).permutation(200).astype(np.uint8).reshape(50, 4)
    separated, moved = separate_colliding(codes, np.zeros((50, 2), np.float32), np.zeros((4, 256, 2), np.float32), 256)
    assert moved == 0
    assert (separated == codes).all()
