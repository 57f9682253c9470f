"""`tessera rank groups`, from the command line to the numbers."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offline.generate_catalogue import generate
from tessera import app
from tests.offline.rankers.judged_shop import write_labelled, write_sequences

QUICK = [
    "question.history=2",
    "question.title_tokens=4",
    "shown=4",
    "collaborative.epochs=1",
    "text.max_tokens=8",
    "matching.epochs=1",
    "wording.epochs=1",
    "wording.positions=last",
    "wording.validation_rows=2",
    "projection.positions=last",
    "projection.epochs=1",
    "projection.validation_rows=2",
]


def run(*arguments: str):
    sets = [piece for one in QUICK for piece in ("--set", one)]
    return CliRunner().invoke(app, ["rank", "groups", "--recipe", "a-llmrec", *sets, *arguments])


def test_a_generated_shop_is_measured_by_groups_after_training_on_few_users(tmp_path: Path) -> None:
    generate(tmp_path / "shop", users=30, items=40, seed=0)
    result = run("--data", str(tmp_path / "shop"), "--train-users", "20", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["train_users"] == 20
    assert set(said["systems"]) == {"sasrec", "language model alone", "latents of texts", "a-llmrec"}
    for metrics in said["systems"].values():
        assert metrics["all"]["lists"] == 30
        assert 0 < metrics["cold-items"]["lists"] + metrics["warm-items"]["lists"] <= 30
        assert 0 <= metrics["all"]["hit@1"] <= metrics["all"]["ndcg@10"] <= 1


def test_another_folder_is_ranked_by_what_was_trained_on_the_first(tmp_path: Path) -> None:
    generate(tmp_path / "shop", users=20, items=60, seed=0)
    other = write_sequences(tmp_path / "other")
    result = run("--data", str(tmp_path / "shop"), "--on", str(other), "--group", "all")
    assert result.exit_code == 0, result.output
    assert "trained on shop, measured on shop, test part" in result.output
    assert "16.0000" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "old-items"], "no group old-items"),
        (["--group", "cold-users"], "the fewest that a user has are 4"),
        (["--train-users", "99"], "99 are asked for"),
        (["--set", "matching.size=0"], "matching.size must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_before_training(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run("--data", str(write_sequences(tmp_path / "shop")), *arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "autoencoders" not in result.output


def test_labelled_data_is_refused(tmp_path: Path) -> None:
    result = run("--data", str(write_labelled(tmp_path / "shop")))
    assert result.exit_code == 1
    assert "label column" in result.output
