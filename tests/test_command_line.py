"""What the commands print, on versions that are made up; what they do is tested where it is written."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tessera
from offline.interactions import read_dataset
from tests.tiny_bundle import build_tiny_bundle

ITEMS, USERS = 40, 12


@pytest.fixture(params=["categories", "no categories"])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder, and an active version that was trained on it."""
    folder = tmp_path / "data"
    folder.mkdir()
    categories = {item: f"shelf {item % 4}" if request.param == "categories" else "" for item in range(ITEMS)}
    rows = [f"item-{item},wool sock number {item},{name}" for item, name in categories.items()]
    (folder / "items.csv").write_text("\n".join(["item_id,title,category", *rows]), encoding="utf-8")
    events = [f"user-{user},item-{(user * 7 + step) % ITEMS},{step}" for user in range(USERS) for step in range(5)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]), encoding="utf-8")
    dataset = read_dataset(folder)
    build_tiny_bundle(tmp_path / "store", catalog=dataset.catalog, data_fingerprint=dataset.fingerprint)
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    return folder


def test_evaluate_queries_prints_as_text_what_it_prints_as_json(data: Path) -> None:
    words = ["evaluate-queries", "--data", str(data), "--beam", "20"]
    text = CliRunner().invoke(tessera.app, words)
    assert text.exit_code == 0, text.output
    found = json.loads(CliRunner().invoke(tessera.app, [*words, "--json"]).stdout)
    assert found["users"] == USERS
    for way, metrics in found["ways"].items():
        (line,) = (line for line in text.output.splitlines() if line.split()[:1] == [way])
        assert [float(cell) for cell in line.split()[1:]] == [round(value, 4) for value in metrics.values()]
    assert ("a random list" in text.output) == (found["chance"] is not None) == (found["with_category"] > 0)


def test_evaluate_says_how_many_codes_are_invalid_without_a_trie(data: Path) -> None:
    words = ["evaluate", "--data", str(data), "--beam", "20", "--constraint", "position"]
    text = CliRunner().invoke(tessera.app, words)
    assert text.exit_code == 0, text.output
    found = json.loads(CliRunner().invoke(tessera.app, [*words, "--json"]).stdout)
    rows = [line.split() for line in text.output.splitlines()]
    expected = [
        [*system.split(), *(f"{value:.4f}" for value in metrics.values())]
        for protocol in ("all", "unseen")
        for table in (found["protocols"], found["codes"])
        for system, metrics in table[protocol].items()
    ]
    assert [row for row in rows if row in expected] == expected
    for protocol in ("all", "unseen"):
        assert found["codes"][protocol]["tessera"]["invalid_codes"] == 0
        assert 0 < found["codes"][protocol]["per position"]["invalid_codes"] <= 1
    plain = CliRunner().invoke(tessera.app, words[:-2])
    assert plain.exit_code == 0
    assert "per position" not in plain.output
    assert "invalid_codes" not in plain.output


def test_evaluate_knows_two_constraints(tmp_path: Path) -> None:
    refused = CliRunner().invoke(tessera.app, ["evaluate", "--data", str(tmp_path), "--constraint", "none"])
    assert refused.exit_code == 2
    assert "trie or position" in refused.output
