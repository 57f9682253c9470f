"""Catalogues and language models with random weights: what a decoder's speed depends on, without training one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS, ItemCodes

_LOGIT_STD = 2.5
"""With the usual start all items would score alike and rounding would rank them."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting: items in a history, beams."""

    history: int
    beams: int


CELLS = (Cell(16, 20), Cell(16, 50), Cell(50, 20), Cell(50, 50))


def random_codes(count: int) -> ItemCodes:
    """Codes that share prefixes the way learned ones do: bushy at the top, single children at the end."""
    random = np.random.default_rng(0)
    first = random.gamma(2.0, size=244)
    drawn = np.stack(
        [
            random.choice(len(first), 2 * count, p=first / first.sum()),
            random.integers(0, 36, 2 * count),
            random.integers(0, 14, 2 * count),
            random.integers(0, CODEBOOK_SIZE, 2 * count),
        ],
        axis=1,
    ).astype(np.uint8)
    return ItemCodes(random.permutation(np.unique(drawn[: count + count // 50], axis=0))[:count])


def skewed_codes(count: int) -> ItemCodes:
    """Codes for catalogues of any size: every level's entries differ in how often they are used, up to some ten times.

    Families grow with the catalogue, as learned ones must: the second level's fill up to all 256, the fourth's stay
    small.
    """
    random = np.random.default_rng(0)
    weights = random.gamma(2.0, size=(len(LEVEL_LETTERS) - 1, CODEBOOK_SIZE))
    packed = np.empty(0, dtype=np.uint32)
    while len(packed) < count:
        drawn = random.integers(0, CODEBOOK_SIZE, count + count // 10, dtype=np.uint32)
        for level, weight in enumerate(weights, start=1):
            entries = random.choice(CODEBOOK_SIZE, len(drawn), p=weight / weight.sum())
            drawn |= entries.astype(np.uint32) << np.uint32(8 * level)
        packed = np.sort(np.concatenate([packed, drawn]))
        packed = packed[np.flatnonzero(np.diff(packed, prepend=~packed[:1]))]
    chosen = random.permutation(packed)[:count].astype(">u4")
    return ItemCodes(chosen.view(np.uint8).reshape(count, len(LEVEL_LETTERS)))


def scratch_model(*, hidden: int, layers: int, vocabulary: int) -> Any:
    """A GPT-NeoX of the shape that `llm = "scratch:<size>"` trains."""
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden,
        max_position_embeddings=512,
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    return GPTNeoXForCausalLM(config)


def opinionated(model: Any) -> Any:
    """Scale the tied embeddings so that logits spread like a trained model's."""
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        # Behind the last norm a hidden state is sqrt(H) long.
        embeddings.normal_(std=_LOGIT_STD / embeddings.shape[1] ** 0.5)
    return model.eval()
