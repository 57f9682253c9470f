"""What each process of `test_processes` runs: a trainer of its own, then the command line, as anyone would.

python two_processes.py DATA OUTPUT
"""

import sys
from pathlib import Path

import torch

import tessera
from offline.interactions import read_dataset
from offline.processes import Processes
from tests.offline.small_trainer import small_trainer

QUICK = ["collaborative.epochs=1", "training.epochs=2", "training.validate_every=1", "training.validation_users=20"]
QUICK += ["text.max_tokens=8", "joint.epochs=2", "codes.iterations=5", "language_model.text_vocabulary=300"]
QUICK += ["tasks.share=0.5", "language_model.llm=scratch:tiny", "collaborative.items_per_batch=512"]


def main(data: Path, output: Path) -> None:
    processes = Processes()
    trainer, model, split = small_trainer(read_dataset(data), output / "run", processes=processes)
    result = trainer.train(split.train, split.evaluation_cases("valid"))
    torch.save({"weights": model.state_dict(), "result": result}, output / f"rank{processes.rank}.pt")
    settings = [word for setting in QUICK for word in ("--set", setting)]
    tessera.app(["train", "--data", str(data), *settings])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
