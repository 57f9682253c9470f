"""A shop where every user keeps to items of their own, so that an example's history tells whose it is."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model_store.catalog import Catalog
from model_store.code_tokens import CodeTokens
from model_store.item_codes import ItemCodes
from model_store.prompts import PromptEncoder
from offline.language_model import LanguageModelConfig, build_language_model, new_tokens
from offline.leave_one_out import Histories
from offline.tasks.examples import TaskSampler
from offline.tasks.task_mix import FAMILIES, TaskConfig
from tests.tiny_bundle import random_codes

USERS, OWN = 24, 8
"""Users, and items of each: six to train on, two held out."""
ITEMS = USERS * OWN
HISTORY = 5
KINDS = ("kettle", "chair", "lamp", "rug", "shelf", "vase")
PLACES = ("garden", "kitchen", "attic", "office")


def make_catalog(titles, texts=None, categories=None, brands=None) -> Catalog:
    count = len(titles)
    return Catalog(
        item_ids=tuple(f"i{n}" for n in range(count)),
        titles=tuple(titles),
        texts=tuple(texts or [""] * count),
        categories=tuple(categories or [()] * count),
        prices=np.full(count, np.nan, np.float32),
        attributes=tuple({"brand": brand} for brand in brands or [""] * count),
        available=np.ones(count, bool),
    )


def make_histories(rows) -> Histories:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Histories(offsets, np.array([item for row in rows for item in row], dtype=np.int32))


def unigram_tokenizer(catalog: Catalog) -> PreTrainedTokenizerFast:
    """Another kind than that of models built here: SentencePiece's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        initial_alphabet=list(string.printable),
        special_tokens=["<eos>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    documents = (catalog.document(item) for item in range(len(catalog)))
    tokenizer.train_from_iterator(documents, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.add_tokens(new_tokens(), special_tokens=True)
    return fast


def scratch_tokenizer(catalog: Catalog) -> Any:
    settings = LanguageModelConfig(llm="scratch:tiny", text_vocabulary=400)
    return build_language_model(catalog, np.ones((4, 256, 4), np.float32), settings, max_positions=16, seed=0)[1]


@dataclass(frozen=True)
class Shop:
    """Everything a sampler needs. Histories are [USERS] rows of item indices."""

    catalog: Catalog
    codes: ItemCodes
    prompts: PromptEncoder
    whole: list[list[int]]
    train: list[list[int]]

    def sampler(self, seed: int = 0, **settings: Any) -> TaskSampler:
        return TaskSampler(
            make_histories(self.train),
            self.catalog,
            self.codes,
            self.prompts,
            TaskConfig(**settings),
            make_histories(self.whole),
            seed,
        )

    def only(self, *families: str, seed: int = 0, **settings: Any) -> TaskSampler:
        weights = {family: float(family in families) for family in FAMILIES}
        return self.sampler(seed, **weights, **settings)

    def items_in(self, tokens: np.ndarray) -> list[int]:
        """The items whose codes stand in some tokens, in order."""
        spelled = {tuple(code): item for item, code in enumerate(self.prompts.item_tokens_NL.tolist())}
        first = set(self.prompts.item_tokens_NL[:, 0].tolist())
        tokens = tokens.tolist()
        return [spelled[tuple(tokens[at : at + 4])] for at, token in enumerate(tokens) if token in first]

    def parts(self, example) -> tuple[list[int], list[int]]:
        """The items of an example's history, and those of its instruction."""
        ask = self.prompts.tokenizer.convert_tokens_to_ids("<|ask|>")
        at = example.tokens.tolist().index(ask)
        return self.items_in(example.tokens[:at]), self.items_in(example.tokens[at : example.response_start])

    def user(self, example) -> int:
        return self.parts(example)[0][0] // OWN

    def response(self, example) -> str:
        return " ".join(self.prompts.tokenizer.decode(example.tokens[example.response_start : -1]).split())


def make_shop(make_tokenizer=scratch_tokenizer, catalog: Catalog | None = None) -> Shop:
    rng = np.random.default_rng(5)
    if catalog is None:
        titles = [f"{PLACES[n % 4]} {KINDS[n // 4 % 6]} number {n}" for n in range(ITEMS)]
        texts = [f"Good for {PLACES[n % 4]}s." if n % 3 else "" for n in range(ITEMS)]
        categories = [("Home", KINDS[n // 4 % 6].title() + "s") for n in range(ITEMS)]
        catalog = make_catalog(titles, texts, categories, ["Acme" if n % 2 else "Zenith" for n in range(ITEMS)])
    codes = ItemCodes(random_codes(rng, ITEMS, 12))
    tokenizer = make_tokenizer(catalog)
    prompts = PromptEncoder.create(tokenizer, CodeTokens.from_vocabulary(tokenizer, Path("test")), codes, HISTORY)
    whole = [list(range(user * OWN, (user + 1) * OWN)) for user in range(USERS)]
    return Shop(catalog, codes, prompts, whole, [row[:-2] for row in whole])


@pytest.fixture(scope="session", params=[scratch_tokenizer, unigram_tokenizer])
def shop(request) -> Shop:
    return make_shop(request.param)
