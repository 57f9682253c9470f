"""Low-rank adapters: train a large checkpoint through few parameters, then fold them into its weights.

LoRA (Hu et al., arXiv:2106.09685) on every linear layer but the output. The tokens that Tessera adds have nothing to
adapt: their rows are trained themselves, in the input and the output embedding (one and the same where these are tied).

Shapes: V vocabulary, H hidden size.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from model_store.errors import TesseraError

if TYPE_CHECKING:
    from peft import PeftModel

_ROWS = "trainable_tokens_delta"


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Settings of `training.method = "lora"`."""

    rank: int = 16
    alpha: float = 32.0
    """Adapters are scaled by alpha / rank."""
    dropout: float = 0.05
    learning_rate: float = 2e-4
    """Of the adapters; `training.learning_rate` is that of a full training."""
    token_learning_rate: float = 1e-3
    """Of the rows of new tokens."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TesseraError(f"training.lora.rank must be at least 1, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise TesseraError(f"training.lora.dropout must be at least 0 and below 1, not {self.dropout}")


def add_adapters(model: Any, new_tokens: list[int], config: LoraConfig, seed: int) -> "PeftModel":
    """Freeze the model and put trainable adapters into it, in place; `merge_adapters` takes what this returns.

    Args:
        model: a causal language model.
        new_tokens: ids of the tokens whose rows are trained.
        config: settings.
        seed: of the adapters' start.

    Raises:
        TesseraError: the output embedding has a bias, which training of single rows would leave out.
    """
    # Imported here: it takes seconds, and few runs need it.
    import peft

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(head, "bias", None) is not None:
        raise TesseraError(
            f"training.method=lora: {type(model).__name__} has a bias in its output embedding, which is not supported; "
            "use training.method=full"
        )
    rows = {_name_of(model, embedding): new_tokens}
    if head.weight is not embedding.weight:
        rows[_name_of(model, head)] = new_tokens
    torch.manual_seed(seed)
    tuned = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules="all-linear",
            # GPT-2 keeps its linear layers transposed.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
            trainable_token_indices=rows,
            task_type="CAUSAL_LM",
        ),
    )
    # Decoders and losses read the output embedding's weight and bias; its wrapper passes on the weight alone.
    model.get_output_embeddings().register_parameter("bias", None)
    return tuned


def merge_adapters(model: Any, tuned: "PeftModel") -> None:
    """Fold the adapters into the model's own weights, in place; a plain checkpoint is left."""
    tuned.merge_and_unload()
    model.tie_weights()


def is_token_row(parameter_name: str) -> bool:
    """Whether a parameter holds the rows of new tokens."""
    return _ROWS in parameter_name


def _name_of(model: Any, module: Any) -> str:
    names: list[str] = [name for name, found in model.named_modules() if found is module]
    return names[0]
