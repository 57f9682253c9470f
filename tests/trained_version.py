"""A version really trained, in seconds, on a generated shop."""

from pathlib import Path

from model_store.bundle import Bundle, ModelStore
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.recipe import load_recipe
from offline.train import Run, train

_QUICK = ("collaborative.epochs=2", "training.epochs=1", "training.validate_every=1", "text.max_tokens=16")


def train_version(home: Path, *settings: str) -> Bundle:
    """Train the demo recipe with these settings and publish it in `home / "store"`, where it becomes active."""
    generate(home / "data", users=60, items=60, seed=0)
    store = ModelStore(home / "store")
    bundle = train(Run.create(read_dataset(home / "data"), load_recipe("demo", [*_QUICK, *settings]), home), store)
    store.activate(bundle.version)
    return bundle
