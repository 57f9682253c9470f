"""`tessera rank`: a ranker trained beside a generator and published, and what is said where it cannot be."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.bundle import ModelStore
from offline.interactions import read_dataset
from tessera import app
from tests.offline.rankers.judged_shop import write_labelled, write_sequences
from tests.tiny_bundle import build_tiny_bundle

QUICK = [
    *("text.epochs=1", "injection.epochs=1", "alignment.epochs=2", "alignment.size=8", "alignment.width=16"),
    *("question.history=4", "text.min_history=1"),
]


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TESSERA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    return CliRunner()


def settings() -> list[str]:
    return [part for setting in QUICK for part in ("--set", setting)]


def publish_generator(data: Path, store: Path) -> None:
    dataset = read_dataset(data)
    build_tiny_bundle(store, catalog=dataset.catalog, data_fingerprint=dataset.fingerprint)


def test_a_ranker_is_published_beside_its_generator_and_measured(runner: CliRunner, tmp_path: Path) -> None:
    data = write_sequences(tmp_path / "shop")
    publish_generator(data, tmp_path / "store")
    trained = runner.invoke(app, ["rank", "train", "--data", str(data), *settings()])
    assert trained.exit_code == 0, trained.stderr
    version = trained.stdout.splitlines()[-1]
    assert version == "tiny-1+1"
    store = ModelStore(tmp_path / "store")
    bundle, base = store.open(version), store.open("tiny-1")
    assert store.active() == "tiny-1"
    record = bundle.manifest.ranker
    assert record is not None
    assert (record.recipe, record.kind, record.language_model) == ("sella-rec", "sella-rec", "scratch:tiny")
    assert record.config["alignment"]["size"] == 8
    assert set(record.metrics) == {"valid", "stages"}
    assert (bundle.cache_version, base.ranker_path) == ("tiny-1", None)
    shared = {name for name in bundle.manifest.files if not name.startswith("ranker/")}
    assert shared == set(base.manifest.files)
    assert all((bundle.path / name).samefile(base.path / name) for name in shared)

    measured = runner.invoke(app, ["rank", "evaluate", "--data", str(data), "--version", version, "--json"])
    assert measured.exit_code == 0, measured.stderr
    result = json.loads(measured.stdout)
    assert (result["protocol"], result["part"]) == ("leave-one-out", "test")
    assert set(result["systems"]["sella-rec"]) == {"hit@1", "ndcg@10"}


def test_a_ranker_takes_the_place_of_the_one_before(runner: CliRunner, tmp_path: Path) -> None:
    data = write_sequences(tmp_path / "shop")
    publish_generator(data, tmp_path / "store")
    for _ in range(2):
        trained = runner.invoke(app, ["rank", "train", "--data", str(data), *settings()])
        assert trained.exit_code == 0, trained.stderr
        ModelStore(tmp_path / "store").activate(trained.stdout.splitlines()[-1])
    bundle = ModelStore(tmp_path / "store").open()
    assert (bundle.version, bundle.manifest.extends) == ("tiny-1+2", "tiny-1+1")
    assert sum(name.endswith("ranker.json") for name in bundle.manifest.files) == 1


def test_a_study_has_its_baselines_in_the_same_table(runner: CliRunner, tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "shop")
    asked = ["rank", "evaluate", "--data", str(data), "--recipe", "sella-rec", *settings()]
    found = runner.invoke(app, [*asked, "--json"])
    assert found.exit_code == 0, found.stderr
    systems = json.loads(found.stdout)["systems"]
    assert list(systems) == ["mf", "sasrec", "text-only", "sella-rec"]
    for metrics in systems.values():
        assert set(metrics) == {"auc", "uauc", "auc_warm"}
        assert all(0 <= value <= 1 for value in metrics.values())
    # Labels are about taste here, which factors learn within a few epochs.
    assert systems["mf"]["auc"] > 0.7
    table = runner.invoke(app, [*asked, "--baselines", "none", "--most", "20"])
    assert table.exit_code == 0, table.stderr
    assert [line.split()[0] for line in table.stdout.splitlines()[2:]] == ["text-only", "sella-rec"]


def test_what_cannot_be_is_said(runner: CliRunner, tmp_path: Path) -> None:
    data, other = write_sequences(tmp_path / "shop"), write_labelled(tmp_path / "other")
    publish_generator(data, tmp_path / "store")
    cases: list[tuple[list[str], int, str]] = [
        (["rank", "train", "--data", str(other)], 1, "a ranker needs a generator of the same data"),
        (["rank", "evaluate", "--data", str(data)], 1, "version tiny-1 has no ranker; `tessera rank train`"),
        (["rank", "train", "--data", str(data), "--recipe", "oracle"], 1, "recipes that come with Tessera: a-llmrec"),
        (["rank", "train", "--data", str(data), "--set", "text.epochs=0"], 1, "epochs must be at least 1"),
        (["rank", "evaluate", "--data", str(data), "--set", "seed=1"], 2, "needs --recipe"),
        (["rank", "evaluate", "--data", str(data), "--baselines", "oracle"], 2, "no baseline oracle"),
    ]
    for arguments, code, message in cases:
        result = runner.invoke(app, arguments)
        said = " ".join(result.stderr.replace("│", " ").split())
        assert (result.exit_code, message in said) == (code, True), said
