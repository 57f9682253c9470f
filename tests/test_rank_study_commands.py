"""`tessera rank ablate` and `tessera rank attention`: a table of rows that goes on where it stopped, and a picture."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from model_store.bundle import ModelStore
from offline.interactions import read_dataset
from offline.rankers.publish_ranker import publish_ranker
from offline.rankers.ranker_ablation import ablation_table
from offline.rankers.ranker_recipe import RankerRecipe, TrainedRanker
from tessera import app
from tests.model_store.rankers.small_rankers import small_sail, small_text_only
from tests.offline.rankers.judged_shop import write_labelled
from tests.offline.rankers.test_sail_rec_training import with_categories
from tests.tiny_bundle import build_tiny_bundle

QUICK = (
    "codebooks=catalog", "question.history=4", "text.epochs=1", "factorization.epochs=1", "factorization.size=8",
    "mapping.width=16", "mapping.heads=2", "mapping.item_width=16", "warm_up.epochs=1", "judging.epochs=1",
    "text.validation_rows=20", "judging.validation_rows=20",
)  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    return CliRunner()


def test_rows_are_trained_once_and_stand_in_one_table(runner: CliRunner, tmp_path: Path) -> None:
    data = with_categories(write_labelled(tmp_path / "shop"))
    settings = [part for setting in QUICK for part in ("--set", setting)]
    asked = ["rank", "ablate", "--data", str(data), "--baselines", "none", *settings]
    asked += ["--row", "sail-rec", "--row", "without steering"]
    first = runner.invoke(app, [*asked, "--json"])
    assert first.exit_code == 0, first.stderr
    records = json.loads(first.stdout)["records"]
    assert [(record["row"], record["seed"]) for record in records] == [("sail-rec", 0), ("without steering", 0)]
    assert [record["attention"]["biases"] for record in records] == [[-1, 1], [0, 0]]
    assert set(records[0]["beside"]) == {"mf", "text-only"}
    again = runner.invoke(app, asked)
    assert again.exit_code == 0, again.stderr
    assert again.stderr.count("measured before") == 2
    assert [line.split(" | ")[0] for line in again.stdout.splitlines()] == [
        "| system", "| ---", "| mf", "| text-only", "| sail-rec", "| without steering",
    ]  # fmt: skip


def test_a_row_starts_from_the_recipe_that_it_names(runner: CliRunner, tmp_path: Path) -> None:
    data = with_categories(write_labelled(tmp_path / "shop"))
    rows = tmp_path / "rows.toml"
    rows.write_text('[rows.mine]\nset = []\n[rows.other]\nrecipe = "oracle"\nset = []\n')
    found = runner.invoke(app, ["rank", "ablate", "--data", str(data), "--rows", str(rows)])
    assert found.exit_code == 1
    assert "recipe 'oracle': no file" in found.stderr
    assert not (tmp_path / "home").exists(), "found before the first training"


def test_a_table_has_means_and_deviations_over_seeds() -> None:
    records = [
        {"row": "a", "seed": seed, "metrics": {"auc": auc}, "beside": {"mf": {"auc": 0.5}}}
        for seed, auc in ((0, 0.6), (1, 0.7), (2, 0.8))
    ]
    assert ablation_table(records).splitlines()[2:] == ["| mf | .5000 ± .0000 |", "| a | .7000 ± .1000 |"]


def test_attention_of_a_published_ranker_is_printed_and_drawn(runner: CliRunner, tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "shop")
    dataset = read_dataset(data)
    base = build_tiny_bundle(tmp_path / "store", catalog=dataset.catalog, data_fingerprint=dataset.fingerprint)
    store = ModelStore(tmp_path / "store")
    for made in (small_text_only(catalog=dataset.catalog), small_sail(catalog=dataset.catalog)):
        recipe = RankerRecipe(name=made.kind, kind=made.kind)
        base = publish_ranker(store, base, recipe, "scratch:none", TrainedRanker(made, {}), {})
    asked = ["rank", "attention", "--data", str(data), "--most", "9"]
    picture = tmp_path / "attention.svg"
    found = runner.invoke(app, [*asked, "--version", base.version, "--plot", str(picture), "--json"])
    assert found.exit_code == 0, found.stderr
    shares = json.loads(found.stdout)
    assert (shares["biases"], shares["prompts"]) == ([-2, 2], 9)
    drawn = ElementTree.parse(picture).getroot()
    words = " ".join(drawn.itertext())
    assert "with steering" in words
    assert "Attention to soft tokens at the answer" in words
    printed = runner.invoke(app, [*asked, "--version", base.version])
    assert [line.split()[:2] for line in printed.stdout.splitlines()[2:4]] == [["1", "-2.00"], ["2", "+2.00"]]
    for version, said in (("tiny-1", "has no ranker"), ("tiny-1+1", "puts no soft tokens into its prompts")):
        refused = runner.invoke(app, [*asked, "--version", version])
        assert refused.exit_code == 1
        assert said in " ".join(refused.stderr.split())


def test_what_cannot_be_is_said(runner: CliRunner, tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "shop")
    for extra, code, said in (
        (["--row", "oracle"], 1, "no row 'oracle'"),
        (["--rows", "oracle"], 1, "studies that come with Tessera: sail-rec"),
        (["--seeds", "one"], 2, "integers, comma separated"),
        (["--baselines", "oracle"], 2, "no baseline oracle"),
    ):
        refused = runner.invoke(app, ["rank", "ablate", "--data", str(data), *extra])
        assert (refused.exit_code, said in " ".join(refused.stderr.replace("│", " ").split())) == (code, True), said
