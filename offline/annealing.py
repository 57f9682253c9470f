"""The annealing phase: after training on all tasks, a short one on the next item alone, through low-rank adapters.

The annealing adapter tuning of EAGER-LLM (arXiv:2502.14735), as its released code does it: one phase, LoRA of rank 8 on
every linear layer, the embeddings trained along, no contrast; the adapters are folded in before publishing. The
released code trains every row of the embeddings. Only the tokens that Tessera adds occur in the next-item task, so
training their rows alone is the same. What we changed: the phase keeps distilling where training did, and a phase that
does not help on validation is undone.
"""

import dataclasses
from dataclasses import dataclass

from model_store.errors import TesseraError
from offline.language_model_training.low_rank import LoraConfig
from offline.train_language_model import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class AnnealingConfig:
    """Settings of the annealing phase; without epochs there is none."""

    epochs: int = 0
    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.05
    learning_rate: float = 2e-4
    """Of the adapters."""
    token_learning_rate: float = 2e-4
    """Of the rows of code tokens."""

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise TesseraError(f"annealing.epochs must be at least 0, not {self.epochs}")
        self._lora()

    def after(self, training: TrainingConfig) -> TrainingConfig:
        """The phase's settings: those of `training`, but for what the phase is.

        Raises:
            TesseraError: training leaves an adapter apart, which this phase would have to change.
        """
        if not training.lora.merge:
            raise TesseraError(
                "annealing.epochs: the phase changes the weights an adapter was trained for; "
                "set training.lora.merge=true, or annealing.epochs=0"
            )
        return dataclasses.replace(
            training, epochs=self.epochs, method="lora", lora=self._lora(), validate_every=1, patience=self.epochs
        )

    def _lora(self) -> LoraConfig:
        return LoraConfig(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            learning_rate=self.learning_rate,
            token_learning_rate=self.token_learning_rate,
        )
