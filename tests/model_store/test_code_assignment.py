import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.code_assignment import make_unique, nearest_codes, packed_codes
from model_store.item_codes import ItemCodes


def some_codebooks(entries=6, size=5, seed=0):
    codebooks = np.zeros((4, 256, size), dtype=np.float32)
    codebooks[:, :entries] = np.random.default_rng(seed).normal(size=(4, entries, size))
    return codebooks / np.array([1, 2, 4, 8], dtype=np.float32)[:, None, None]


def test_of_items_that_share_a_code_the_best_quantized_keeps_it_and_the_others_stay_under_its_prefix():
    codebooks = np.zeros((4, 256, 2), dtype=np.float32)
    codebooks[3, :4] = [[0, 0], [1, 0], [0, 1], [5, 5]]
    vectors = np.array([[0.2, 0.0], [0.1, 0.0], [0.3, 0.0]], dtype=np.float32)
    codes, moved = make_unique(np.zeros((3, 4), dtype=np.uint8), vectors, codebooks, entries=4)
    assert moved == 2
    assert codes[1].tolist() == [0, 0, 0, 0]
    assert codes[:, :3].tolist() == [[0, 0, 0]] * 3
    assert codes[0, 3] == 1


def test_more_than_256_items_of_one_prefix_spill_over_one_level_up():
    codebooks = np.zeros((4, 256, 2), dtype=np.float32)
    vectors = np.zeros((600, 2), dtype=np.float32)
    codes, _ = make_unique(np.zeros((600, 4), dtype=np.uint8), vectors, codebooks, entries=4)
    assert len(np.unique(codes, axis=0)) == 600
    assert len(np.unique(codes[:, :2], axis=0)) == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 5))
def test_nobody_gets_a_code_that_is_taken(count, others, seed):
    random = np.random.default_rng(seed)
    codebooks = some_codebooks(entries=3)
    vectors = random.normal(size=(count + others, 5)).astype(np.float32)
    taken = set(packed_codes(nearest_codes(vectors[count:], codebooks, 3)).tolist())
    codes, _ = make_unique(nearest_codes(vectors[:count], codebooks, 3), vectors[:count], codebooks, 3, taken)
    packed = packed_codes(codes).tolist()
    assert len(set(packed)) == count
    assert not taken & set(packed)


def test_each_level_takes_the_nearest_entry_of_what_the_levels_before_left():
    codebooks = some_codebooks()
    vectors = np.random.default_rng(1).normal(size=(40, 5)).astype(np.float32)
    for vector, code in zip(vectors, nearest_codes(vectors, codebooks, 6), strict=True):
        residual = vector
        for level, entry in enumerate(code):
            distances = [np.linalg.norm(residual - row) for row in codebooks[level, :6]]
            assert entry == int(np.argmin(distances))
            residual = residual - codebooks[level, entry]


def test_packed_codes_are_those_of_the_item_codes():
    codes = np.unique(np.random.default_rng(0).integers(0, 256, (50, 4), dtype=np.uint8), axis=0)
    assert (packed_codes(codes) == ItemCodes(codes).packed).all()
