"""The language model to train: a Hugging Face checkpoint, or one built from a config, with code tokens added.

Shapes: L levels, C entries a level, D joint vector size, H hidden size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from string import Formatter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.instructions import FIELDS, NO, PARAPHRASES, YES
from model_store.item_codes import LEVEL_LETTERS, code_token_names
from model_store.prompts import MARKERS
from offline.language_model_training.token_start import start_from_codebooks, start_from_projection

SCRATCH_PREFIX = "scratch:"
_END_TOKEN = "<|end|>"
_PAD_TOKEN = "<|pad|>"
_INIT_STD = 0.02
_SCRATCH_CODE_LENGTH = 1.8
"""Length at which first-level code tokens of a scratch model start. Behind a layer norm and with tied embeddings the
logits' standard deviation is a row's length; at the usual 0.02 a coordinate it would take epochs to grow there."""


TOKEN_STARTS = ("codebook", "projection", "random")


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
    """`codebook`: code tokens start at their randomly rotated centroid; `projection`: at what an alignment with the
    language model has made of it; `random`: like any new token."""

    def __post_init__(self) -> None:
        if self.token_start not in TOKEN_STARTS:
            raise TesseraError(
                f"language_model.token_start must be codebook, projection or random, not {self.token_start!r}"
            )
        if self.llm.startswith(SCRATCH_PREFIX) and self.llm.removeprefix(SCRATCH_PREFIX) not in SCRATCH_SIZES:
            raise TesseraError(f"language_model.llm: {self.llm!r} is not one of scratch:{'|'.join(SCRATCH_SIZES)}")


def build_language_model(
    catalog: Catalog,
    codebooks_LCD: NDArray[np.float32],
    config: LanguageModelConfig,
    *,
    max_positions: int,
    seed: int,
    token_vectors_LCH: NDArray[np.float32] | None = None,
) -> tuple[Any, Any]:
    """Give the model and its tokenizer, code tokens included.

    Args:
        catalog: whose text a scratch model's tokenizer learns.
        codebooks_LCD: rows of entries that are not in use are zero.
        config: settings.
        max_positions: tokens of the longest sequence, prompt and answer.
        seed: of every random start.
        token_vectors_LCH: the entries as an alignment projects them, for `token_start = "projection"`.

    Raises:
        TesseraError: the checkpoint cannot be loaded, or reads fewer than `max_positions` tokens; or there is no
            projection to start from.
    """
    if config.token_start == "projection" and token_vectors_LCH is None:
        raise TesseraError(
            "language_model.token_start=projection: these item codes were made without a projection into a language "
            "model's space; choose codes that have one, or set language_model.token_start=codebook"
        )
    torch.manual_seed(seed)
    if config.llm.startswith(SCRATCH_PREFIX):
        size = SCRATCH_SIZES[config.llm.removeprefix(SCRATCH_PREFIX)]
        tokenizer = train_tokenizer(_texts(catalog), config.text_vocabulary)
        tokenizer.add_tokens(new_tokens(), special_tokens=True)
        model = scratch_model(size, tokenizer, config.dropout, max_positions)
        median = mean = _SCRATCH_CODE_LENGTH
    else:
        tokenizer, model = load_checkpoint(config.llm, max_positions)
        tokenizer.add_tokens(new_tokens(), special_tokens=True)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=True)
        lengths = model.get_input_embeddings().weight.detach().norm(dim=-1)
        is_word = torch.ones(len(lengths), dtype=torch.bool)
        is_word[tokenizer.convert_tokens_to_ids(new_tokens())] = False
        median, mean = lengths[is_word].median().item(), lengths[is_word].mean().item()
    if config.token_start == "codebook":
        start_from_codebooks(model, tokenizer, codebooks_LCD, median, seed)
    elif config.token_start == "projection" and token_vectors_LCH is not None:
        start_from_projection(model, tokenizer, token_vectors_LCH, np.any(codebooks_LCD, axis=-1), mean, seed)
    return model, tokenizer


def new_tokens() -> list[str]:
    """The tokens Tessera adds to a vocabulary."""
    return [*MARKERS, *code_token_names(len(LEVEL_LETTERS))]


def load_checkpoint(name: str, max_positions: int) -> tuple[Any, Any]:
    """The tokenizer and the model, float32, of a Hugging Face name or folder.

    Raises:
        TesseraError: it cannot be loaded, or reads fewer than `max_positions` tokens.
    """
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
    return tokenizer, model


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of these texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END_TOKEN, _PAD_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=_END_TOKEN, pad_token=_PAD_TOKEN)


def _texts(catalog: Catalog) -> Iterator[str]:
    """Every document, and instructions at least as often, each in its turn: training reads them that often too."""
    templates = [template for paraphrases in PARAPHRASES.values() for template in paraphrases]
    asked = [template.replace("{field}", field) for template in templates for field in FIELDS]
    words = [literal for template in asked for literal, _, _, _ in Formatter().parse(template) if literal.strip()]
    words += [f" {answer}" for answer in (YES, NO)]
    for index in range(max(len(catalog), len(words))):
        if index < len(catalog):
            yield catalog.document(index)
        yield words[index % len(words)]


def scratch_model(size: ScratchSize, tokenizer: Any, dropout: float, max_positions: int) -> Any:
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
