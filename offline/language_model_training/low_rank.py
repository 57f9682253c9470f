"""Low-rank adapters: train a large checkpoint through few parameters, then fold them in or keep them apart.

LoRA (Hu et al., arXiv:2106.09685) on every linear layer but the output. The tokens that Tessera adds have nothing to
adapt: their rows are trained themselves, in the input and the output embedding (one and the same where these are tied).
Rows always end up in the checkpoint: vLLM takes adapters of linear layers only.

Shapes: V vocabulary, H hidden size.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from model_store.errors import TesseraError
from model_store.manifest import ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from peft import LoraConfig as PeftLoraConfig
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
    """Of the rows of new tokens; 0 leaves them where they started, so that versions can share all but their adapter."""
    merge: bool = True
    """Whether the adapters are folded into the published checkpoint; if not, they lie beside it (`llm/adapter`)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise TesseraError(f"training.lora.rank must be at least 1, not {self.rank}")
        if not 0 <= self.dropout < 1:
            raise TesseraError(f"training.lora.dropout must be at least 0 and below 1, not {self.dropout}")


@dataclass(frozen=True)
class Adapter:
    """What training changed in linear layers, taken out of a model.

    Attributes:
        config: a `peft.LoraConfig`.
        weights: by their names in an adapter's file.
    """

    config: Any
    weights: dict[str, Tensor]

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(weight.numel() for weight in self.weights.values())

    def save(self, folder: Path) -> None:
        """Write it as peft and vLLM read it; equal adapters make equal files."""
        folder.mkdir(parents=True)
        # Peft writes sets in any order; the names of layers are one.
        config = json.dumps(self.config.to_dict(), default=sorted, sort_keys=True, indent=2)
        (folder / "adapter_config.json").write_text(config + "\n", encoding="utf-8")
        save_file(self.weights, folder / Path(ADAPTER_WEIGHTS).name, metadata={"format": "pt"})


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
        linear_adapters(model, config.rank, config.alpha, config.dropout, rows),
    )
    # Decoders and losses read the output embedding's weight and bias; its wrapper passes on the weight alone.
    model.get_output_embeddings().register_parameter("bias", None)
    return tuned


def linear_adapters(
    model: Any, rank: int, alpha: float, dropout: float, rows: dict[str, list[int]] | None = None
) -> "PeftLoraConfig":
    """A `peft.LoraConfig` for every linear layer but the output, and for rows of embeddings by their module."""
    import peft

    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="all-linear",
        # GPT-2 keeps its linear layers transposed.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        trainable_token_indices=rows,
        task_type="CAUSAL_LM",
    )


def merge_adapters(model: Any, tuned: "PeftModel") -> None:
    """Fold the adapters into the model's own weights, in place; a plain checkpoint is left."""
    tuned.merge_and_unload()
    model.tie_weights()


def take_out_adapters(model: Any, tuned: "PeftModel") -> Adapter:
    """Take the adapters out of the model, in place; a plain checkpoint is left, with the rows of new tokens as trained.

    The checkpoint alone is not what was trained: it belongs together with what this returns.
    """
    from peft import get_peft_model_state_dict

    config = copy.copy(tuned.peft_config["default"])
    config.inference_mode, config.trainable_token_indices = True, None
    # Where the run found its checkpoint; the adapter's is the one it is published with.
    config.base_model_name_or_path = None
    weights = {
        name: tensor.detach().cpu().clone()
        for name, tensor in get_peft_model_state_dict(tuned, save_embedding_layers=False).items()
        if not is_token_row(name)
    }
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if ".lora_B." in name:
                # So that merging puts the rows in their place and adds nothing to the layers.
                parameter.zero_()
    merge_adapters(model, tuned)
    return Adapter(config, weights)


def is_token_row(parameter_name: str) -> bool:
    """Whether a parameter holds the rows of new tokens."""
    return _ROWS in parameter_name


def _name_of(model: Any, module: Any) -> str:
    names: list[str] = [name for name, found in model.named_modules() if found is module]
    return names[0]
