"""A ranker comes back from its files as it was, also around a catalogue that has grown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.errors import BundleCorrupt, UnsupportedBundleFormat
from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker, save_ranker
from model_store.rankers.user_keys import user_key
from tests.model_store.rankers.small_rankers import (
    ARCHITECTURES,
    ITEMS,
    small_catalog,
    small_sella,
    small_text_only,
)


def asked(items: int = ITEMS) -> list[RankRequest]:
    candidates = np.arange(items, dtype=np.int32)
    history = np.array([1, 5, 2], dtype=np.int32)
    return [RankRequest(history=history, candidates=candidates, user_key=user_key(f"user-{u}")) for u in (0, 3)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_ranker_scores_as_before(tmp_path: Path, architecture: str) -> None:
    for ranker in (small_sella(architecture), small_text_only(architecture)):
        folder = tmp_path / ranker.kind
        save_ranker(folder, ranker)
        loaded = load_ranker(folder, small_catalog())
        assert type(loaded) is type(ranker)
        assert loaded.config == ranker.config
        for one, other in zip(loaded.rank(asked()), ranker.rank(asked()), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_nothing_in_the_folder_names_a_user_or_runs_code(tmp_path: Path) -> None:
    save_ranker(tmp_path / "ranker", small_sella())
    files = [path for path in (tmp_path / "ranker").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}
    assert not any(b"user-3" in path.read_bytes() for path in files)


def test_new_items_are_scored_by_their_titles_and_old_ones_as_before(tmp_path: Path) -> None:
    ranker = small_sella()
    save_ranker(tmp_path / "ranker", ranker)
    grown = load_ranker(tmp_path / "ranker", small_catalog(ITEMS + 4))
    for before, after in zip(ranker.rank(asked()), grown.rank(asked(ITEMS + 4)), strict=True):
        np.testing.assert_allclose(after[:ITEMS], before, atol=1e-4)
        assert np.isfinite(after).all()
        assert len(set(after[ITEMS:].round(6).tolist())) == 4


def test_users_who_are_not_in_it_are_scored_alike(tmp_path: Path) -> None:
    ranker = small_sella()
    first = asked()[0]
    strangers = [
        RankRequest(history=first.history, candidates=first.candidates, user_key=key)
        for key in (None, 12345, user_key("somebody else"))
    ]
    scores = ranker.rank(strangers)
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])
    assert np.abs(scores[0] - ranker.rank([first])[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 9}, UnsupportedBundleFormat, "ranker format 9, this Tessera reads 1"),
        ({"kind": "oracle"}, BundleCorrupt, "a ranker of kind 'oracle', expected one of"),
        ({"config": {"users": 7}}, BundleCorrupt, "not a sella-rec ranker"),
        ({"config": {"users": 8, "items": ITEMS, "size": 8, "width": 16}}, BundleCorrupt, "size mismatch"),
    ],
)
def test_what_is_no_ranker_of_ours_is_named(
    tmp_path: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    save_ranker(tmp_path / "ranker", small_sella())
    path = tmp_path / "ranker" / "ranker.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=message) as raised:
        load_ranker(tmp_path / "ranker", small_catalog())
    assert str(tmp_path / "ranker") in str(raised.value)


def test_cut_weights_are_a_corrupt_bundle(tmp_path: Path) -> None:
    save_ranker(tmp_path / "ranker", small_sella())
    path = tmp_path / "ranker" / "modules.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleCorrupt, match="not a sella-rec ranker"):
        load_ranker(tmp_path / "ranker", small_catalog())


def test_loading_leaves_nothing_that_trains(tmp_path: Path) -> None:
    save_ranker(tmp_path / "ranker", small_sella())
    loaded = load_ranker(tmp_path / "ranker", small_catalog())
    assert not loaded.training
    assert not loaded.language_model.model.training
    assert torch.equal(loaded.state_dict()["title_vectors.weight"], small_sella().title_vectors.weight)
