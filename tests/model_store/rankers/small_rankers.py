"""Rankers with random weights around language models with random weights: real classes, nothing trained."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_store.catalog import Catalog
from model_store.rankers.judgement import JudgementConfig
from model_store.rankers.sella_rec import SellaRecConfig, SellaRecRanker
from model_store.rankers.soft_prompt_model import SoftPromptModel
from model_store.rankers.text_only import TextOnlyConfig, TextOnlyRanker
from model_store.rankers.user_keys import user_key

ITEMS, USERS = 30, 7
ARCHITECTURES = ("gpt-neox", "gpt2", "qwen3")
QUESTION = JudgementConfig(history=4, title_tokens=8)


def small_catalog(items: int = ITEMS) -> Catalog:
    return Catalog(
        item_ids=tuple(f"item-{number}" for number in range(items)),
        titles=tuple(f"Title {number} {'long ' * (number % 4)}".strip() for number in range(items)),
        texts=("",) * items,
        categories=((),) * items,
        prices=np.full(items, np.nan, dtype=np.float32),
        attributes=({},) * items,
        available=np.ones(items, dtype=np.bool_),
    )


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Letters, digits and the words of answers; it writes a blank as part of what follows."""
    letters = [chr(code) for code in range(33, 127)]
    names = ["<unk>", "<pad>", "<eos>", "Yes", "No", *letters]
    pieces = Tokenizer(models.WordPiece({**{n: i for i, n in enumerate(names)}, **_continued(letters, len(names))}))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")


def _continued(letters: list[str], first: int) -> dict[str, int]:
    return {f"##{letter}": first + number for number, letter in enumerate(letters)}


def small_language_model(architecture: str = "gpt-neox", seed: int = 0) -> SoftPromptModel:
    tokenizer = small_tokenizer()
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "initializer_range": 0.3}
    model: Any
    if architecture == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**shape, n_embd=32, n_layer=2, n_head=2, n_positions=256))
    elif architecture == "qwen3":
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
        model = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, **sizes, tie_word_embeddings=True))
    else:
        heads = {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256}
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **heads, hidden_size=32, num_hidden_layers=2))
    return SoftPromptModel(model.eval(), tokenizer)


def small_sella(
    architecture: str = "gpt-neox",
    *,
    tokens: tuple[str, ...] = ("user", "item", "warm"),
    match_norm: bool = True,
    catalog: Catalog | None = None,
    seed: int = 0,
) -> SellaRecRanker:
    """It knows the users user-0 to user-6."""
    catalog = catalog or small_catalog()
    language_model = small_language_model(architecture, seed)
    config = SellaRecConfig(
        users=USERS, items=len(catalog), size=8, width=16, tokens=tokens, match_norm=match_norm, question=QUESTION
    )
    ranker = SellaRecRanker(config, language_model, catalog)
    for table in (ranker.tables.users, ranker.tables.items):
        # As far apart as after training.
        torch.nn.init.normal_(table.weight)
    ranker.tables.name_users(sorted(user_key(f"user-{number}") for number in range(USERS)))
    return ranker.eval()


def small_text_only(architecture: str = "gpt-neox") -> TextOnlyRanker:
    return TextOnlyRanker(TextOnlyConfig(question=QUESTION), small_language_model(architecture), small_catalog()).eval()
