import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.code_assignment import nearest_codes, packed_codes
from model_store.errors import BundleCorrupt, TesseraError
from model_store.quantizer import ItemQuantizer
from model_store.text_encoder import TextConfig
from offline.codes.export_quantizer import export_quantizer
from offline.codes.joint_embedding import JointConfig, train_joint_embedding
from offline.codes.make_codes import make_codes
from tests.offline.codes.made_items import BEHAVIOUR_SIZE, TEXT_SIZE, made_vectors, quick_config
from tests.tiny_bundle import build_tiny_bundle

ITEMS, UNKNOWN = 160, 12
INPUTS = ("joint", "behaviour", "text", "concat")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Makes quantizers of one catalogue: its vectors with NaN for behaviour that is not known, codes, quantizer."""
    made, _ = made_vectors(ITEMS, unknown=UNKNOWN)
    config = JointConfig(size=8, hidden=16, epochs=5)
    encoder, joint = train_joint_embedding(made.text_NX, made.behaviour_NY, made.known_N, config, seed=0)
    vectors = dataclasses.replace(made, joint_ND=joint)
    behaviour = np.where(vectors.known_N[:, None], vectors.behaviour_NY, np.nan).astype(np.float32)
    cache = {}

    def make(kind="kmeans", source="joint"):
        if (kind, source) not in cache:
            quantization = make_codes(vectors, vectors.text_NX, quick_config(kind=kind, input=source), 0)
            folder = tmp_path_factory.mktemp("bundle") / "quantizer"
            export_quantizer(folder, encoder, quantization, TextConfig(), seed=0)
            cache[kind, source] = quantization, ItemQuantizer.read(folder)
        return vectors, behaviour, *cache[kind, source]

    return make


@pytest.mark.parametrize(("kind", "source"), [*itertools.product(("kmeans", "codebooks"), INPUTS), ("kmeans", "all")])
def test_items_of_the_catalogue_get_the_codes_they_have(trained, kind, source):
    vectors, behaviour, quantization, quantizer = trained(kind, source)
    codes = quantizer.code_of(vectors.text_NX, behaviour, set())
    if kind == "kmeans":
        assert (codes == quantization.codes_NL).all()
    # A cascade spreads items that collide in another way, over the last level alone.
    assert (codes[:, :3] == quantization.codes_NL[:, :3]).all()
    raw = nearest_codes(quantization.vectors_ND, quantization.codebooks_LCD, quantization.report["entries"])
    alone = (raw[:, None] == raw[None]).all(axis=2).sum(axis=1) == 1
    assert alone.sum() > ITEMS / 2
    assert (codes[alone] == quantization.codes_NL[alone]).all()


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        *itertools.product(("kmeans", "codebooks", "random"), INPUTS),
        ("kmeans", "all"),
        ("dual", "concat"),
        ("mixed", "all"),
    ],
)
def test_new_items_get_codes_that_nobody_has_from_text_alone(trained, kind, source):
    vectors, _, quantization, quantizer = trained(kind, source)
    taken = packed_codes(quantization.codes_NL)
    codes = quantizer.code_of(vectors.text_NX, None, taken)
    assert codes.dtype == np.uint8
    packed = packed_codes(codes)
    assert len(np.unique(packed)) == ITEMS
    assert not np.isin(packed, taken).any()


@pytest.mark.parametrize("kind", ["kmeans", "codebooks"])
def test_an_item_whose_own_code_is_taken_moves_as_little_as_there_is_room(trained, kind):
    vectors, behaviour, quantization, quantizer = trained(kind)
    taken = set(packed_codes(quantization.codes_NL).tolist())
    codes = quantizer.code_of(vectors.text_NX, behaviour, taken)
    assert (codes[:, :3] == quantization.codes_NL[:, :3]).all()


@pytest.mark.parametrize(("kind", "source"), [("dual", "concat"), ("mixed", "all")])
def test_an_item_of_the_catalogue_gets_the_entries_nearest_to_it_in_balanced_codes_too(trained, kind, source):
    vectors, behaviour, quantization, quantizer = trained(kind, source)
    codes = quantizer.code_of(vectors.text_NX, behaviour, set())
    at_nearest = quantization.report["share_at_nearest_entry"]
    assert at_nearest == sorted(at_nearest, reverse=True)
    assert (codes[:, 0] == quantization.codes_NL[:, 0]).mean() == pytest.approx(at_nearest[0])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_taken_codes_are_the_same_as_a_set_and_as_an_array(trained, data):
    vectors, behaviour, quantization, quantizer = trained()
    packed = packed_codes(quantization.codes_NL)
    taken = packed[data.draw(st.lists(st.integers(0, ITEMS - 1), max_size=80, unique=True))]
    rows = data.draw(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=20, unique=True))
    given_set = set(taken.tolist())
    by_set = quantizer.code_of(vectors.text_NX[rows], behaviour[rows], given_set)
    assert (by_set == quantizer.code_of(vectors.text_NX[rows], behaviour[rows], taken)).all()
    assert given_set == set(taken.tolist())
    assert not given_set & set(packed_codes(by_set).tolist())


def test_behaviour_changes_the_code_where_it_is_quantized_and_not_where_text_alone_is(trained):
    for source, changes in (("joint", True), ("behaviour", True), ("concat", True), ("text", False)):
        vectors, behaviour, _, quantizer = trained("kmeans", source)
        known = vectors.known_N
        text = vectors.text_NX[known]
        with_behaviour, without = (quantizer.code_of(text, b, set()) for b in (behaviour[known], None))
        assert (with_behaviour != without).any() == changes


def test_vectors_are_the_joint_vectors_of_training(trained):
    vectors, behaviour, _, quantizer = trained()
    made = quantizer.vectors_of(vectors.text_NX, behaviour)
    np.testing.assert_allclose(made, vectors.joint_ND, atol=1e-5)
    text_alone = quantizer.vectors_of(vectors.text_NX)
    np.testing.assert_allclose(np.linalg.norm(text_alone, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(text_alone[-UNKNOWN:], vectors.joint_ND[-UNKNOWN:], atol=1e-5)
    assert (np.abs(text_alone - made).max(axis=1)[:-UNKNOWN] > 1e-3).all()


@pytest.mark.parametrize(
    ("text_size", "behaviour_size", "message"),
    [
        (TEXT_SIZE + 1, BEHAVIOUR_SIZE, r"text vectors: expected \[2, 24\], got \[2, 25\]"),
        (TEXT_SIZE, 3, r"behaviour vectors: expected \[2, 12\], got \[2, 3\]"),
    ],
)
def test_vectors_of_another_encoder_are_refused(trained, text_size, behaviour_size, message):
    *_, quantizer = trained()
    text, behaviour = np.zeros((2, text_size), np.float32), np.zeros((2, behaviour_size), np.float32)
    with pytest.raises(TesseraError, match=message):
        quantizer.code_of(text, behaviour, set())


def test_a_bundle_without_a_quantizer_or_with_an_older_one_says_so(tmp_path):
    bundle = build_tiny_bundle(tmp_path)
    with pytest.raises(BundleCorrupt, match=r"quantizer: no quantizer that can be read"):
        ItemQuantizer.open(bundle)
    (bundle.path / "quantizer").mkdir()
    (bundle.path / "quantizer" / "config.json").write_text(json.dumps({"kind": "joint", "entries": 256}))
    with pytest.raises(BundleCorrupt, match=r"config\.json: format None, expected 2; train again"):
        ItemQuantizer.open(bundle)


def test_it_needs_no_torch():
    check = (
        "import sys, model_store.quantizer; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", check], cwd=Path(__file__).parents[2], check=True)
