"""The language model to train: a Hugging Face checkpoint, or one built from a config, with code tokens added.

Shapes: L levels, C entries a level, D joint vector size, H hidden size.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS, code_token_names
from model_store.prompts import MARKERS

_SCRATCH_PREFIX = "scratch:"
_END_TOKEN = "<|end|>"
_PAD_TOKEN = "<|pad|>"
_INIT_STD = 0.02
_SCRATCH_CODE_LENGTH = 1.8
"""Length at which first-level code tokens of a scratch model start. Behind a layer norm and with tied embeddings the
logits' standard deviation is a row's length; at the usual 0.02 a coordinate it would take epochs to grow there."""


@dataclass(frozen=True)
class ScratchSize:
    """The shape of a model built from a config; heads are 32 wide, the narrowest that vLLM's CPU attention takes."""

    hidden: int
    layers: int

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.hidden // 32


SCRATCH_SIZES = {
    "tiny": ScratchSize(hidden=64, layers=2),
    "small": ScratchSize(hidden=128, layers=2),
    "medium": ScratchSize(hidden=256, layers=3),
    "large": ScratchSize(hidden=512, layers=6),
}


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Which language model, and how new tokens start."""

    llm: str = "scratch:small"
    """A Hugging Face name or folder, or `scratch:tiny|small|medium|large` to build one from a config."""
    dropout: float = 0.2
    """Of a scratch model."""
    text_vocabulary: int = 2048
    """Tokens of text that the tokenizer of a scratch model learns from the catalogue."""
    token_start: str = "codebook"
    """`codebook`: code tokens start at their projected centroid; `random`: like any new token."""

    def __post_init__(self) -> None:
        if self.token_start not in ("codebook", "random"):
            raise TesseraError(f"language_model.token_start must be codebook or random, not {self.token_start!r}")
        if self.llm.startswith(_SCRATCH_PREFIX) and self.llm.removeprefix(_SCRATCH_PREFIX) not in SCRATCH_SIZES:
            raise TesseraError(f"language_model.llm: {self.llm!r} is not one of scratch:{'|'.join(SCRATCH_SIZES)}")


def build_language_model(
    catalog: Catalog,
    codebooks_LCD: NDArray[np.float32],
    config: LanguageModelConfig,
    *,
    max_positions: int,
    seed: int,
) -> tuple[Any, Any]:
    """Give the model and its tokenizer, code tokens included.

    Raises:
        TesseraError: the checkpoint cannot be loaded, or reads fewer than `max_positions` tokens.
    """
    torch.manual_seed(seed)
    if config.llm.startswith(_SCRATCH_PREFIX):
        size = SCRATCH_SIZES[config.llm.removeprefix(_SCRATCH_PREFIX)]
        tokenizer = _train_tokenizer(catalog, config.text_vocabulary)
        model = _scratch_model(size, tokenizer, config.dropout, max_positions)
        length = _SCRATCH_CODE_LENGTH
    else:
        tokenizer, model = _load_checkpoint(config.llm, max_positions)
        length = model.get_input_embeddings().weight.detach().norm(dim=-1).median().item()
    if config.token_start == "codebook":
        _start_from_codebooks(model, tokenizer, codebooks_LCD, length, seed)
    return model, tokenizer


def new_tokens() -> list[str]:
    """The tokens Tessera adds to a vocabulary."""
    return [*MARKERS, *code_token_names(len(LEVEL_LETTERS))]


def _load_checkpoint(name: str, max_positions: int) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise TesseraError(f"language_model.llm {name!r}: {error}") from error
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and limit < max_positions:
        raise TesseraError(
            f"language_model.llm {name!r} reads {limit} tokens, histories take {max_positions}; lower max_history"
        )
    tokenizer.add_tokens(new_tokens(), special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    return tokenizer, model


def _train_tokenizer(catalog: Catalog, vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of the catalogue's text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END_TOKEN, _PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((catalog.document(index) for index in range(len(catalog))), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=_END_TOKEN, pad_token=_PAD_TOKEN)
    tokenizer.add_tokens(new_tokens(), special_tokens=True)
    return tokenizer


def _scratch_model(size: ScratchSize, tokenizer: Any, dropout: float, max_positions: int) -> Any:
    """A GPT-NeoX: rotary positions, and the dropout that small data needs, which Llama-like models leave out."""
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        hidden_dropout=dropout,
        attention_dropout=0.0,
        max_position_embeddings=max_positions,
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        tie_word_embeddings=True,
        initializer_range=_INIT_STD,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return GPTNeoXForCausalLM(config)


def _start_from_codebooks(
    model: Any, tokenizer: Any, codebooks_LCD: NDArray[np.float32], length: float, seed: int
) -> None:
    """Put each code token at its centroid, through one random rotation; first-level tokens get `length` on average.

    Near centroids start as near tokens, and levels keep their relative sizes: coarse ones are longer than corrections.
    """
    levels, entries, size = codebooks_LCD.shape
    hidden = model.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    wide = max(hidden, size)
    rotation = torch.linalg.qr(torch.randn(wide, wide, generator=generator)).Q[:size, :hidden]
    vectors = torch.from_numpy(codebooks_LCD).reshape(levels * entries, size) @ rotation
    used = vectors.norm(dim=-1) > 0
    first_level = vectors[:entries][used[:entries]].norm(dim=-1).mean()
    vectors = vectors * (length / first_level)
    # A little noise tells apart tokens whose centroids coincide.
    vectors += torch.randn(vectors.shape, generator=generator) * (0.1 * length / math.sqrt(hidden))
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(code_token_names(levels, CODEBOOK_SIZE)))
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight[ids[used]] = vectors[used].to(embedding.weight)
