import numpy as np
import pytest

from offline.codes.make_codes import make_codes
from tests.offline.codes.made_items import JOINT_SIZE, made_vectors, quick_config

TEXT = slice(JOINT_SIZE, JOINT_SIZE + 6)
BEHAVIOUR = slice(JOINT_SIZE + 6, None)


def mixed(count=400, seed=0):
    vectors, kind_of = made_vectors(count, unknown=20)
    return make_codes(vectors, None, quick_config(kind="mixed", input="all", iterations=20), seed), kind_of


def test_every_item_has_a_code_of_its_own_and_the_source_tokens_are_spread_evenly():
    made, _ = mixed()
    assert len(np.unique(made.codes_NL, axis=0)) == 400
    assert made.report["entries"] == 380 // 8
    # Making codes unique moves some of the last.
    sizes = np.bincount(made.codes_NL[:, 2], minlength=380 // 8)
    assert sizes.max() - sizes.min() <= 1


def test_each_level_speaks_of_its_own_part():
    books = mixed()[0].codebooks_LCD
    assert books[:2, :, :JOINT_SIZE].any()
    assert books[2, :, TEXT].any()
    assert books[3, :, BEHAVIOUR].any()
    assert not books[:2, :, JOINT_SIZE:].any()
    assert not books[2, :, :JOINT_SIZE].any()
    assert not books[2, :, BEHAVIOUR].any()
    assert not books[3, :, : TEXT.stop].any()


def test_the_first_two_tokens_do_not_name_an_item_so_that_the_sources_decide():
    made, _ = mixed()
    assert made.report["distinct_prefixes"][1] < 400
    assert made.report["single_child_nodes"][2] < 1


@pytest.mark.parametrize("level", [0, 2, 3])
def test_tokens_know_the_kinds_of_items(level):
    made, kind_of = mixed()
    together = (made.codes_NL[:, None, level] == made.codes_NL[None, :, level]) & ~np.eye(400, dtype=bool)
    assert (kind_of[:, None] == kind_of[None, :])[together].mean() > 0.6


def test_the_same_seed_gives_the_same_codes_and_another_seed_others():
    first, again, other = (mixed(seed=seed)[0].codes_NL for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
