"""Two processes that train together, started as anyone would start them."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model_store.bundle import ModelStore
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from tests.offline.small_trainer import QUICK, small_trainer

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
# Any free port, so that test runs beside each other do not meet.
LAUNCH += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=60, items=40, seed=0)
    return folder


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    """The folder two processes left, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TESSERA_HOME": str(folder / "home"),
        "TESSERA_STORE": str(folder / "store"),
    }
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [sys.executable, *LAUNCH, str(script), str(data), str(folder)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def left_by(folder, rank):
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def test_both_end_with_the_same_weights_and_the_same_story(together):
    first, second = (left_by(together[0], rank) for rank in (0, 1))
    assert first["result"] == second["result"]
    for name, tensor in first["weights"].items():
        assert torch.equal(tensor, second["weights"][name]), name


def distance(weights, others):
    return max((weights[name] - others[name]).abs().max().item() for name in weights)


def test_two_processes_do_what_one_does_that_accumulates_two_batches(data, together, tmp_path):
    two = left_by(together[0], 0)
    weights, losses = {}, {}
    for count in (1, 2):
        config = dataclasses.replace(QUICK, accumulate=count)
        trainer, model, split = small_trainer(read_dataset(data), tmp_path / str(count), config)
        result = trainer.train(split.train, split.evaluation_cases("valid"))
        weights[count] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        losses[count] = [record["loss"] for record in result["curve"]]
    assert [record["loss"] for record in two["result"]["curve"]] == pytest.approx(losses[2], rel=1e-3)
    assert distance(two["weights"], weights[2]) < 0.1 * distance(two["weights"], weights[1])


def test_one_bundle_is_published_and_named_once(together):
    folder, printed = together
    store = ModelStore(folder / "store")
    (version,) = store.versions()
    assert printed.split() == [version]
    assert store.active() == version
    manifest = store.open(version).manifest
    assert manifest.metrics["language_model"]["curve"][-1]["task_tokens"] > 0
    assert {"report/training.json", "report/training.svg"} <= set(manifest.files)
    assert not any((folder / "home" / "runs").iterdir())
