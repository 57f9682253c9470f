"""The picture of a training."""

import json
import xml.etree.ElementTree as ElementTree

from offline.language_model_training.report import write_report
from offline.tasks.task_mix import FAMILIES

SVG = "{http://www.w3.org/2000/svg}"


def training(epochs=28, tasks=FAMILIES):
    curve = [
        {"epoch": float(n), "loss": 8 / n, "tokens": 100.0}
        | {f"loss_{family}": (at + 3) / n for at, family in enumerate(tasks)}
        | ({"ndcg@10": 0.01 * n, "recall@10": 0.02 * n} if n % 4 == 0 or n == epochs else {})
        for n in range(1, epochs + 1)
    ]
    return {"best_epoch": epochs, "epochs": epochs, "curve": curve}


def words(path):
    return {"".join(node.itertext()).strip() for node in ElementTree.parse(path).iter(f"{SVG}text")}


def test_the_picture_shows_every_task_and_the_validation_and_needs_nothing_else(tmp_path):
    write_report(tmp_path / "report", training())
    path = tmp_path / "report" / "training.svg"
    shown = words(path)
    assert {"next item of a history", *(family.replace("_", " ") for family in FAMILIES)} <= shown
    assert "Validation NDCG@10, seen items excluded" in shown
    assert path.stat().st_size < 100_000
    assert {node.tag for node in ElementTree.parse(path).iter()}.isdisjoint({f"{SVG}image", f"{SVG}script"})


def test_the_curve_is_kept_as_it_was_measured(tmp_path):
    write_report(tmp_path / "report", training())
    assert json.loads((tmp_path / "report" / "training.json").read_text()) == training()


def test_equal_trainings_have_equal_files(tmp_path):
    for name in ("first", "second"):
        write_report(tmp_path / name, training())
    assert (tmp_path / "first" / "training.svg").read_bytes() == (tmp_path / "second" / "training.svg").read_bytes()


def test_one_epoch_without_tasks_makes_a_picture_too(tmp_path):
    write_report(tmp_path / "report", training(epochs=1, tasks=()))
    assert "Training loss by task, nats an item or a token of text" in words(tmp_path / "report" / "training.svg")
