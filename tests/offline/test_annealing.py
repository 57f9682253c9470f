"""The annealing phase, by a whole training run of a tiny model."""

import numpy as np
import pytest

from model_store.bundle import ModelStore
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.recipe import load_recipe
from offline.train import Run, train

QUICK = [
    "max_history=8",
    "language_model.llm=scratch:tiny",
    "text.max_tokens=16",
    "collaborative.epochs=1",
    "training.epochs=2",
    "training.validate_every=1",
    "training.validation_users=20",
]
ANNEALED = ["annealing.epochs=2", "annealing.rank=4", "annealing.learning_rate=0.01"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=60, items=60, seed=0)
    return read_dataset(folder)


def trained(dataset, home, *settings):
    store = ModelStore(home / "store")
    recipe = load_recipe("semantic-convergence", [*QUICK, *settings])
    return train(Run.create(dataset, recipe, home, shared=home / "stages"), store)


def test_a_second_phase_starts_from_the_first_and_is_folded_in(dataset, tmp_path):
    plain = trained(dataset, tmp_path, "tasks.share=0.25")
    annealed = trained(dataset, tmp_path, "tasks.share=0.25", *ANNEALED)
    first, second = (annealed.manifest.metrics[phase] for phase in ("language_model", "annealing"))
    assert first["curve"] == plain.manifest.metrics["language_model"]["curve"]
    assert [record["epoch"] for record in second["curve"]] == [0, 1, 2]
    best = next(record for record in first["curve"] if record["epoch"] == first["best_epoch"])
    assert second["curve"][0]["ndcg@10"] == pytest.approx(best["ndcg@10"], abs=1e-6)
    assert not [key for record in second["curve"] for key in record if key.startswith("task")], "the next item alone"
    kept = next(record for record in second["curve"] if record["epoch"] == second["best_epoch"])
    assert annealed.manifest.metrics["language_model_validation"]["ndcg@10"] == kept["ndcg@10"]
    assert kept["ndcg@10"] >= second["curve"][0]["ndcg@10"]
    assert not (annealed.path / "llm" / "adapter").exists()
    request = DecodeRequest(history=np.array([1, 2, 3], dtype=np.int32), n=5, beam_width=10)
    lists = [TorchDecoder.from_bundle(bundle, device="cpu").decode([request])[0] for bundle in (plain, annealed)]
    assert all(len(found) == 5 for found in lists)
    if second["best_epoch"]:
        assert [one.score for one in lists[0]] != [one.score for one in lists[1]]


def test_it_refuses_to_change_what_an_adapter_was_trained_for():
    with pytest.raises(TesseraError, match=r"set training\.lora\.merge=true, or annealing\.epochs=0"):
        load_recipe("semantic-convergence", ["training.method=lora", "training.lora.merge=false", "annealing.epochs=1"])


@pytest.mark.parametrize("setting", ["annealing.epochs=-1", "annealing.rank=0"])
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(TesseraError, match="must be at least"):
        load_recipe("semantic-convergence", [setting])
