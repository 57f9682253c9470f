"""The language model of a ranker: one from a Hugging Face folder, or a small one built from a config.

A model built from a config knows nothing: there is nothing in it that an adapter could adapt, so `method = "auto"`
trains all of it where a checkpoint gets LoRA adapters. Afterwards it is frozen, unless a recipe says otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.rankers.soft_prompt_model import SoftPromptModel
from offline.language_model import SCRATCH_PREFIX, SCRATCH_SIZES, load_checkpoint, scratch_model, train_tokenizer
from offline.language_model_training.low_rank import linear_adapters

if TYPE_CHECKING:
    from peft import PeftModel

_SCRATCH_POSITIONS = 1024


@dataclass(frozen=True, kw_only=True)
class RankerLoraConfig:
    """Settings of LoRA adapters (arXiv:2106.09685) on every linear layer but the output."""

    rank: int = 64
    alpha: float = 16.0
    """Adapters are scaled by alpha / rank."""
    dropout: float = 0.05


@dataclass(frozen=True, kw_only=True)
class RankerLanguageModelConfig:
    """Which language model, and how it is trained where a recipe trains it."""

    llm: str = "scratch:tiny"
    """A Hugging Face name or folder, or `scratch:tiny|small|medium|large` to build one from a config."""
    dropout: float = 0.1
    """Of a scratch model."""
    text_vocabulary: int = 2048
    """Tokens that the tokenizer of a scratch model learns from the titles."""
    method: str = "auto"
    """`full`: every weight; `lora`: adapters; `auto`: full for a scratch model, else lora."""
    lora: RankerLoraConfig = field(default_factory=RankerLoraConfig)

    def __post_init__(self) -> None:
        if self.method not in ("auto", "full", "lora"):
            raise TesseraError(f"language_model.method must be auto, full or lora, not {self.method!r}")
        if self.is_scratch and self.llm.removeprefix(SCRATCH_PREFIX) not in SCRATCH_SIZES:
            raise TesseraError(f"language_model.llm: {self.llm!r} is not one of scratch:{'|'.join(SCRATCH_SIZES)}")

    @property
    def is_scratch(self) -> bool:
        """Whether it is built from a config."""
        return self.llm.startswith(SCRATCH_PREFIX)

    @property
    def by_adapters(self) -> bool:
        """Whether it is trained by adapters."""
        return self.method == "lora" or (self.method == "auto" and not self.is_scratch)


class RankerLanguageModel:
    """A language model in training: frozen, but for the time of `trainable`.

    Args:
        config: settings.
        catalog: whose titles a scratch model's tokenizer learns.
        templates: the words of prompts, which it learns too.
        positions: tokens of the longest prompt.
        device: where it computes.
        seed: of every random start.

    Attributes:
        soft: the model, for rankers.

    Raises:
        TesseraError: the checkpoint cannot be loaded, or reads fewer tokens than a prompt has.
    """

    def __init__(
        self,
        config: RankerLanguageModelConfig,
        catalog: Catalog,
        templates: tuple[str, ...],
        positions: int,
        device: torch.device | str,
        seed: int,
    ) -> None:
        self._config, self._seed = config, seed
        self._adapters: PeftModel | None = None
        torch.manual_seed(seed)
        if config.is_scratch:
            tokenizer = train_tokenizer(_texts(catalog, templates), config.text_vocabulary)
            size = SCRATCH_SIZES[config.llm.removeprefix(SCRATCH_PREFIX)]
            model = scratch_model(size, tokenizer, config.dropout, max(positions, _SCRATCH_POSITIONS))
        else:
            tokenizer, model = load_checkpoint(config.llm, positions)
        self.soft = SoftPromptModel(model.to(device).eval().requires_grad_(False), tokenizer)

    @contextmanager
    def trainable(self) -> Iterator[list[nn.Parameter]]:
        """Its parameters to train, within the block: those of its adapters, or all."""
        model = self.soft.model
        if self._config.by_adapters and self._adapters is None:
            self._adapters = _add_adapters(model, self._config.lora, self._seed)
        by_adapters = self._config.by_adapters
        parameters = [p for name, p in model.named_parameters() if not by_adapters or ".lora_" in name]
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield parameters
        finally:
            model.requires_grad_(False)
            model.zero_grad(set_to_none=True)
            model.eval()

    def merge(self) -> None:
        """Fold the adapters into the model, for publishing; a plain checkpoint is left. It can be trained no more."""
        if self._adapters is not None:
            self._adapters.merge_and_unload()
            self.soft.model.tie_weights()
            self._adapters = None


def _add_adapters(model: Any, config: RankerLoraConfig, seed: int) -> "PeftModel":
    # Imported here: it takes seconds, and few runs need it.
    import peft

    torch.manual_seed(seed)
    return peft.get_peft_model(model, linear_adapters(model, config.rank, config.alpha, config.dropout))


def _texts(catalog: Catalog, templates: tuple[str, ...]) -> Iterator[str]:
    """Titles as prompts have them, and templates as often: every prompt has them."""
    for number, title in enumerate(catalog.titles):
        yield from chain((f' "{title}"',), (templates[number % len(templates)],))
