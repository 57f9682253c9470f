from dataclasses import replace
from pathlib import Path

import pytest

from model_store.errors import TesseraError
from offline.ablation import Row, Study, as_table, read_rows, run_study
from offline.evaluate import ALONE
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.recipe import RECIPES_FOLDER, load_recipe

QUICK: tuple[str, ...] = (
    "collaborative.epochs=2",
    "training.epochs=1",
    "training.validation_users=20",
    "text.max_tokens=8",
)
QUICK += (
    "joint.epochs=1",
    "codes.iterations=3",
    "language_model.llm=scratch:tiny",
    "language_model.text_vocabulary=300",
)


def write_rows(folder: Path, text: str) -> str:
    path = folder / "rows.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", sorted((RECIPES_FOLDER / "ablations").glob("*.toml")), ids=lambda path: path.stem)
def test_every_row_that_comes_with_tessera_fits_its_recipe(path: Path) -> None:
    rows = read_rows(path.stem)
    recipes = [load_recipe(row.recipe or path.stem, list(row.overrides)).as_dict() for row in rows]
    assert all(recipes.count(recipe) == 1 for recipe in recipes), "two rows train the same"


def test_rows_are_picked_by_name_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write_rows(tmp_path, '[rows.a]\nset = []\n[rows.b]\nset = ["seed=1"]\n[rows.c]\nset = []')
    assert read_rows(file, ["c", "b"]) == (Row("b", ("seed=1",)), Row("c", ()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows = ", "not TOML"),
        ("", "no rows"),
        ('[rows.a]\nsets = ["seed=1"]', "row 'a'"),
        ("[rows.a]\nset = [1]", "row 'a'"),
        ("[rows.a]\nset = []\nrecipe = 3", "row 'a'"),
        ("[rows.b]\nset = []", "no row 'a'"),
    ],
)
def test_rows_that_cannot_be_read_are_refused_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TesseraError, match=said):
        read_rows(write_rows(tmp_path, text), ["a"])
    with pytest.raises(TesseraError, match="semantic-convergence"):
        read_rows("nothing-of-that-name")


def test_a_study_trains_each_row_shares_stages_and_goes_on_where_it_was(tmp_path: Path) -> None:
    generate(tmp_path / "data", users=60, items=40, seed=0)
    dataset = read_dataset(tmp_path / "data")
    rows = (Row("learned", ()), Row("random", ("codes.kind=random",)))
    study = Study(recipe="demo", overrides=QUICK, rows=rows, seeds=(0, 1), split="valid", beam_width=20)
    wrong = replace(study, rows=(*rows, Row("wrong", ("nothing.of=that",))))
    with pytest.raises(TesseraError, match="nothing"):
        run_study(dataset, wrong, tmp_path)
    assert not (tmp_path / "studies").exists(), "a wrong row is found before the first is trained"

    records = run_study(dataset, study, tmp_path)
    assert [(record["row"], record["seed"]) for record in records] == [
        ("learned", 0),
        ("learned", 1),
        ("random", 0),
        ("random", 1),
    ]
    assert len({record["version"] for record in records}) == 4
    (folder,) = (tmp_path / "studies").iterdir()
    # The encoder depends on the seed and not on the codes: once for each seed.
    assert len(list((folder / "stages").glob("encoder-*.safetensors"))) == 2
    assert len(list((folder / "stages").glob("codes-*.npz"))) == 4
    by_row = [record["protocols"]["unseen"]["sasrec"] for record in records]
    assert by_row[0] == by_row[2]
    assert by_row[1] == by_row[3]

    assert run_study(dataset, study, tmp_path) == records
    on_test = run_study(dataset, replace(study, split="test"), tmp_path)
    assert [record["version"] for record in on_test] == [record["version"] for record in records], "trained once"
    assert [record["split"] for record in on_test] == ["test"] * 4
    table = as_table(records).splitlines()
    assert [line.split("|")[1].strip() for line in table] == ["row", "---", "popular", "sasrec", "learned", "random"]
    assert all("±" in line for line in table[2:])


def test_a_row_may_start_from_another_recipe_and_shows_its_own_baselines(tmp_path: Path) -> None:
    generate(tmp_path / "data", users=60, items=40, seed=0)
    file = write_rows(
        tmp_path,
        '[rows.mine]\nset = ["collaborative.kind=mf"]\n[rows.other]\nrecipe = "semantic-convergence"\nset = []',
    )
    quick = (*QUICK, "ranking.collaborative_weight=0", "tasks.share=0", "teacher.epochs=1")
    study = Study(recipe="demo", overrides=quick, rows=read_rows(file), seeds=(0,), split="valid", beam_width=20)
    records = run_study(read_dataset(tmp_path / "data"), study, tmp_path)
    table = as_table(records).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["popular", "mf", "teacher", "sasrec", "mine", "other"]
    first, second = (record["protocols"]["all"] for record in records)
    assert "sasrec" not in first
    assert "mf" not in second


def test_a_ranking_with_the_teachers_say_is_shown_beside_the_language_model_and_the_teacher(tmp_path: Path) -> None:
    generate(tmp_path / "data", users=60, items=40, seed=0)
    dataset = read_dataset(tmp_path / "data")
    mixing = ("teacher.epochs=2", "teacher.repeats=true", "teacher.item_features=true")
    mixing += ("ranking.collaborative_weight=0.5",)
    study = Study(
        recipe="demo", overrides=QUICK, rows=(Row("mixed", mixing),), seeds=(0,), split="valid", beam_width=20
    )
    (record,) = records = run_study(dataset, study, tmp_path)
    systems = record["protocols"]["all"]
    assert set(systems) == {"tessera", ALONE, "teacher", "sasrec", "popular"}
    assert systems["tessera"] not in (systems[ALONE], systems["teacher"])
    named = [line.split("|")[1].strip() for line in as_table(records).splitlines()]
    assert named == ["row", "---", "popular", "sasrec", "teacher", "mixed", "mixed: language model alone"]
