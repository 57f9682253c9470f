"""Versions trained by LoRA for tests: a whole `tessera train` of a tiny model on a small generated catalogue."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_store.bundle import Bundle, ModelStore
from offline.generate_catalogue import generate
from offline.interactions import Dataset, read_dataset
from offline.recipe import load_recipe
from offline.train import Run, train
from tests.tiny_bundle import WORDS

_QUICK = (
    "max_history=8",
    "text.max_tokens=16",
    "collaborative.epochs=1",
    "tasks.share=0",
    "ranking.collaborative_weight=0",
    "training.epochs=2",
    "training.validate_every=1",
    "training.validation_users=10",
    "training.method=lora",
    # Few steps must be enough to see what the adapters do.
    "training.lora.learning_rate=0.02",
    "training.lora.rank=4",
)
_SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_MODELS = {
    "qwen3": lambda size: Qwen3ForCausalLM(Qwen3Config(vocab_size=size, tie_word_embeddings=True, **_SHAPE)),
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, tie_word_embeddings=False, **_SHAPE)),
    "gpt2": lambda size: GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_embd=64, n_layer=1, n_head=2, n_positions=256, bos_token_id=0, eos_token_id=0)
    ),
}
APART = "training.lora.merge=false"
SHARED_ROWS = "training.lora.token_learning_rate=0.0"
"""Versions with it have the same base model."""


class AdapterVersions:
    """A store, and what its versions are trained from. Runs share all stages before the language model."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.store = ModelStore(root / "store")
        self.data = root / "data"
        generate(self.data, users=60, items=60, seed=0)
        self.dataset: Dataset = read_dataset(self.data)

    def train(self, llm: str, *settings: str) -> Bundle:
        """Publish a version of `scratch:tiny`, `qwen3` (tied embeddings), `llama` (untied) or `gpt2`."""
        chosen = llm if llm.startswith("scratch:") else str(self._checkpoint(llm))
        recipe = load_recipe("demo", [*_QUICK, f"language_model.llm={chosen}", *settings])
        return train(Run.create(self.dataset, recipe, self._root / "home", self._root / "stages"), self.store)

    def _checkpoint(self, kind: str) -> Path:
        folder = self._root / kind
        if not folder.exists():
            names = ["<unk>", *WORDS]
            words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(names)}, unk_token="<unk>"))
            words.pre_tokenizer = pre_tokenizers.Whitespace()
            PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
            _MODELS[kind](len(names)).save_pretrained(folder)
        return folder
