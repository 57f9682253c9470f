"""Codebooks and votes, by hand."""

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from offline.rankers import label_codebooks
from offline.rankers.label_codebooks import Codebook, read_codebooks
from offline.rankers.profile_votes import vote
from offline.rankers.ranking_data import RankingData
from tests.model_store.rankers.small_rankers import small_catalog, small_language_model
from tests.offline.rankers.judged_shop import read

MODEL = small_language_model()
MOVIES = Path(label_codebooks.__file__).parent / "codebooks" / "movies.toml"


def catalog(*categories: tuple[str, ...], **other: object) -> Catalog:
    return replace(small_catalog(len(categories)), categories=categories, **other)  # type: ignore[arg-type]


def test_categories_label_items_as_the_file_says() -> None:
    style, emotion, ideology = read_codebooks(
        "movies", catalog(("Horror",), ("Comedy", "War"), ()), "categories", MODEL
    )
    assert (style.name, emotion.name, ideology.name) == ("style", "emotion", "ideology")
    assert dict(zip(style.labels, style.scores_NC[0], strict=True))["scare tactics"] == 1
    found = {label: score for label, score in zip(emotion.labels, emotion.scores_NC[1], strict=True) if score}
    assert found == pytest.approx({"funny": 1 / 3, "warm-hearted": 1 / 3, "heartbreaking": 1 / 3})
    assert not ideology.scores_NC[2].any()
    assert ideology.texts[0] == "ideology: family values"


def test_every_label_of_the_films_can_be_told_from_the_others() -> None:
    genres: set[str] = set()
    for labels in tomllib.loads(MOVIES.read_text())["codebooks"].values():
        genres.update(*labels.values())
    assert len(genres) == 18
    for codebook in read_codebooks("movies", catalog(*((genre,) for genre in sorted(genres))), "categories", MODEL):
        assert len(codebook.labels) == 16
        assert codebook.scores_NC.any(1).all(), "a genre says nothing"
        assert len({column.tobytes() for column in codebook.scores_NC.T}) == 16, "two labels mean the same"


def test_a_language_model_labels_every_item_by_cosines() -> None:
    for codebook in read_codebooks("movies", catalog((), ("War",)), "language-model", MODEL):
        np.testing.assert_allclose(codebook.scores_NC.sum(1), 1, atol=1e-5)
        assert codebook.scores_NC.std() > 0


def test_a_catalogue_says_its_own_codebooks() -> None:
    made = catalog(
        ("Hair", "Care", "Shampoo"),
        ("Hair", "Brushes"),
        ("Skin",),
        attributes=({"brand": "Sun"}, {"brand": "Moon"}, {}),
        prices=np.array([1, np.nan, 9], np.float32),
    )
    category, kind, brand = read_codebooks("catalog", made, "categories", MODEL)
    assert (category.name, category.labels) == ("category", ("Hair", "Skin"))
    assert category.scores_NC.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert (kind.name, kind.labels) == ("kind", ("Shampoo", "Brushes"))
    assert (brand.name, brand.scores_NC.tolist()) == ("brand", [[1, 0], [0, 1], [0, 0]])
    bare = replace(made, attributes=({},) * 3)
    price = read_codebooks("catalog", bare, "categories", MODEL)[2]
    assert (price.name, price.labels) == ("price", ("cheap", "luxury"))
    with pytest.raises(TesseraError, match="has 0 of 3 codebooks"):
        read_codebooks("catalog", small_catalog(), "categories", MODEL)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = ", "not TOML"),
        ("version = 2", "expected version = 1 and 3 tables"),
        ("version = 1\n[codebooks.a]\nx = []\ny = []", "3 tables"),
        ("version = 1\n[codebooks]\na = {x = [1], y = []}\nb = {}\nc = {}", "codebook 'a'"),
        (
            "version = 1\n[codebooks]\na = {x = ['A'], y = []}\nb = {x = [], y = []}\nc = {x = [], y = []}",
            "fits no item",
        ),
    ],
)
def test_files_that_are_no_codebooks_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(TesseraError, match=said):
        read_codebooks(str(path), catalog(("A",)), "categories", MODEL)
    with pytest.raises(TesseraError, match="known: catalog, movies"):
        read_codebooks("operas", catalog(("A",)), "categories", MODEL)


def voted(folder: Path, rows: list[tuple[int, int, int]]) -> RankingData:
    folder.mkdir()
    (folder / "a.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(f"{i}\tT{i}\n" for i in range(4)))
    for part in ("train", "valid", "test"):
        # The other parts say the opposite, and have no vote.
        said = rows if part == "train" else [(user, 3, 1) for user in range(4)]
        lines = [f"{user}\t{item}\t{label}\t{at}" for at, (user, item, label) in enumerate(said)]
        header = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float"
        (folder / f"a.{part}.inter").write_text("\n".join([header, *lines]) + "\n")
    return read(folder)


def test_votes_are_weighted_by_liking_and_age(tmp_path: Path) -> None:
    data = voted(
        tmp_path / "a",
        [(0, 0, 1), (0, 1, 1), (0, 2, 0), (1, 0, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0), (2, 2, 1), (2, 0, 1)],
    )
    at = [data.catalog.index_of(str(item)) for item in range(4)]
    scores = np.zeros((4, 3), np.float32)
    scores[at[0]], scores[at[1]], scores[at[2]] = (0.9, 0.1, 0), (0, 1, 0), (0.5, 0, 0.5)
    users = {name: number for number, name in enumerate(data.dataset.user_ids)}
    found = vote(data, Codebook("style", ("a", "b", "c"), scores))
    # User 0: a 0.9 e^-2/20 - 0.25, b 0.1 e^-2/20 + e^-1/20, c -0.25.
    assert found.labels[users["0"]] == 1
    # User 1 dislikes more than was liked; user 3 has no training sample: both have what most have.
    # User 2: a 0.5 e^-1/20 + 0.9.
    assert found.labels[users["2"]] == 0
    assert [bool(found.by_default[users[name]]) for name in "0123"] == [False, True, False, True]
    assert found.labels[users["1"]] == found.labels[users["3"]] == 0


def test_the_newest_of_two_likings_wins(tmp_path: Path) -> None:
    data = voted(tmp_path / "a", [(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0, 1)])
    scores = np.zeros((4, 2), np.float32)
    scores[data.catalog.index_of("0"), 0] = scores[data.catalog.index_of("1"), 1] = 1
    labels = vote(data, Codebook("style", ("a", "b"), scores)).labels
    users = {name: number for number, name in enumerate(data.dataset.user_ids)}
    assert (labels[users["0"]], labels[users["1"]]) == (1, 0)
