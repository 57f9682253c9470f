"""Catalogues and language models with random weights: what a decoder's speed depends on, without training one."""

from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from model_store.item_codes import CODEBOOK_SIZE, ItemCodes

_LOGIT_STD = 2.5
"""With the usual start all items would score alike and rounding would rank them."""


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
