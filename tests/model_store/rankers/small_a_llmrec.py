"""A-LLMRec rankers with random weights, and a text encoder with random weights that is small enough to train."""

import dataclasses
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from model_store.collaborative.configs import CONFIGS
from model_store.rankers.a_llmrec import TOKENS, ALLMRecConfig, ALLMRecRanker
from model_store.text_encoder import TextConfig
from tests.model_store.rankers.small_rankers import ITEMS, QUESTION, small_catalog, small_language_model


def small_a_llmrec(
    architecture: str = "gpt-neox",
    *,
    encoder: str = "sasrec",
    tokens: tuple[str, ...] = TOKENS,
    latents: str = "joint",
    shown: int = 20,
    score: str = "sum",
    text: TextConfig | None = None,
    text_size: int = 384,
) -> ALLMRecRanker:
    """With its own text encoder where `text` names one."""
    language_model = small_language_model(architecture)
    config = ALLMRecConfig(
        items=ITEMS,
        encoder=dataclasses.asdict(CONFIGS[encoder](size=8)),
        text=text or TextConfig(max_tokens=8),
        text_size=text_size,
        own_text_encoder=text is not None,
        size=6,
        tokens=tokens,
        latents=latents,
        shown=shown,
        score=score,
        question=QUESTION,
    )
    torch.manual_seed(1)
    ranker = ALLMRecRanker(config, language_model, small_catalog())
    for value in (*ranker.encoder.parameters(), *ranker.encoder.buffers()):
        torch.nn.init.normal_(value, std=0.5)
    ranker.joint_NZ.copy_(torch.rand(ITEMS, 6))
    ranker.text_NZ.copy_(torch.rand(ITEMS, 6))
    return ranker.eval()


def small_text_encoder(folder: Path, hidden: int = 16) -> TextConfig:
    """A sentence encoder in a new folder."""
    letters = [chr(code) for code in range(33, 127)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    pieces = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **special).save_pretrained(folder)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return TextConfig(encoder=str(folder), max_tokens=16)
