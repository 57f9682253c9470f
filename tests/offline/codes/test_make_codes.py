import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import TesseraError
from offline.codes.make_codes import make_codes
from offline.codes.quantization import Quantization
from offline.recipe import load_recipe
from tests.offline.codes.made_items import BEHAVIOUR_SIZE, TEXT_SIZE, made_vectors, quick_config

KINDS = ("kmeans", "codebooks", "random")
INPUTS = ("joint", "behaviour", "text", "concat", "all")
PARTED = {"dual": "concat", "mixed": "all"}
"""Kinds that take one input alone."""


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(INPUTS),
    st.sampled_from(("infonce", "cosine", "none")),
    st.integers(20, 150),
    st.integers(0, 3),
)
def test_every_item_has_a_code_of_its_own(kind, source, alignment, count, seed):
    vectors, _ = made_vectors(count, unknown=3, seed=seed)
    config = quick_config(kind=kind, input=source, alignment=alignment)
    quantization = make_codes(vectors, vectors.text_NX, config, seed)
    assert quantization.codes_NL.shape == (count, 4)
    assert len(np.unique(quantization.codes_NL, axis=0)) == count
    assert quantization.report["kind"] == kind
    assert quantization.report["input"] == source


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_codes_and_another_seed_others(kind):
    vectors, _ = made_vectors(200)
    first, again, other = (
        make_codes(vectors, vectors.text_NX, quick_config(kind=kind), seed).codes_NL for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_random_codes_know_nothing_of_the_vectors():
    config = quick_config(kind="random")
    one, other = (make_codes(made_vectors(150, seed=seed)[0], None, config, 0) for seed in (1, 2))
    assert (one.codes_NL == other.codes_NL).all()
    assert (one.codebooks_LCD == other.codebooks_LCD).all()


@pytest.mark.parametrize("kind", ["kmeans", "codebooks"])
@pytest.mark.parametrize("source", INPUTS)
def test_codes_know_the_kinds_of_items(kind, source):
    """Of items that share the first code most are of one kind, where by chance one in eight would be."""
    vectors, kind_of = made_vectors(300)
    codes = make_codes(vectors, vectors.text_NX, quick_config(kind=kind, input=source), 0).codes_NL
    together = (codes[:, None, 0] == codes[None, :, 0]) & ~np.eye(len(codes), dtype=bool)
    assert (kind_of[:, None] == kind_of[None, :])[together].mean() > 0.6


@pytest.mark.parametrize("kind", ["kmeans", "codebooks"])
@pytest.mark.parametrize("source", INPUTS)
def test_items_without_training_events_get_codes_but_do_not_shape_them(kind, source):
    vectors, _ = made_vectors(160, unknown=20)
    unknown = ~vectors.known_N
    changed = dataclasses.replace(
        vectors,
        text_NX=np.where(unknown[:, None], -3 * vectors.text_NX, vectors.text_NX),
        joint_ND=np.where(unknown[:, None], -vectors.joint_ND, vectors.joint_ND),
    )
    config = quick_config(kind=kind, input=source)
    before, after = (make_codes(items, items.text_NX, config, 0) for items in (vectors, changed))
    np.testing.assert_array_equal(before.codebooks_LCD, after.codebooks_LCD)
    assert (before.codes_NL[unknown] != after.codes_NL[unknown]).any()


@pytest.mark.parametrize("source", ["behaviour", "concat"])
def test_behaviour_of_items_without_training_events_is_told_from_their_text(source):
    """What the collaborative encoder has for them is noise, and must not matter."""
    vectors, kind_of = made_vectors(300, unknown=40)
    unknown = ~vectors.known_N
    noise = np.where(unknown[:, None], 1e6, vectors.behaviour_NY).astype(np.float32)
    config = quick_config(input=source)
    codes, with_noise = (
        make_codes(items, None, config, 0).codes_NL
        for items in (vectors, dataclasses.replace(vectors, behaviour_NY=noise))
    )
    assert (codes == with_noise).all()
    # Their first code is one that known items of their kind have.
    known = vectors.known_N
    own_kind = [kind_of[known][codes[known, 0] == codes[item, 0]] == kind_of[item] for item in np.flatnonzero(unknown)]
    assert np.mean([votes.mean() if len(votes) else 0 for votes in own_kind]) > 0.5


def test_concat_weighs_both_sides_alike():
    vectors, _ = made_vectors(200)
    chosen, _ = vectors.chosen(quick_config(input="concat"))
    assert chosen.shape == (200, 6 + BEHAVIOUR_SIZE)
    for side in (chosen[:, :6], chosen[:, 6:]):
        assert (side**2).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)
        np.testing.assert_allclose(side.mean(axis=0), 0, atol=1e-5)


def test_an_aligned_cascade_says_where_its_entries_are_among_the_texts():
    vectors, _ = made_vectors(160)
    quantization = make_codes(vectors, vectors.text_NX, quick_config(kind="codebooks"), 0)
    tokens = quantization.token_vectors_LCH
    entries = quantization.report["entries"]
    assert tokens.shape == (4, 256, TEXT_SIZE)
    assert tokens[:, :entries].any(axis=-1).all()
    assert not tokens[:, entries:].any()
    assert not quantization.codebooks_LCD[:, entries:].any()


@pytest.mark.parametrize("settings", [{"kind": "kmeans"}, {"kind": "codebooks", "alignment": "none"}])
def test_without_alignment_entries_have_no_place_among_the_texts(settings):
    vectors, _ = made_vectors(160)
    assert make_codes(vectors, vectors.text_NX, quick_config(**settings), 0).token_vectors_LCH is None


@pytest.mark.parametrize("kind", [*KINDS, *PARTED])
def test_codes_and_what_serves_them_survive_a_file(kind, tmp_path):
    vectors, _ = made_vectors(100)
    made = make_codes(vectors, vectors.text_NX, quick_config(kind=kind, input=PARTED.get(kind, "concat")), 0)
    np.savez(tmp_path / "codes.npz", **made.as_arrays())
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as stored:
        read = Quantization.from_arrays({name: stored[name] for name in stored.files})
    for field in ("codes_NL", "codebooks_LCD", "vectors_ND", "token_vectors_LCH"):
        np.testing.assert_array_equal(getattr(read, field), getattr(made, field))
    assert read.report == made.report
    assert read.serving.keys() == made.serving.keys()
    for name, array in made.serving.items():
        np.testing.assert_array_equal(read.serving[name], array)


def test_codes_cannot_be_aligned_to_a_language_model_that_has_read_nothing():
    scratch = ["codes.kind=codebooks", "codes.align_to=llm", "language_model.llm=scratch:tiny"]
    with pytest.raises(TesseraError, match=r"codes\.align_to=llm needs a pretrained .* Set codes\.align_to=encoder"):
        load_recipe("semantic-convergence", scratch)
    assert load_recipe("semantic-convergence", [*scratch, "codes.alignment=none"])
    assert load_recipe("semantic-convergence", [*scratch[:2], "language_model.llm=Qwen/Qwen3-0.6B"])
