"""Text vectors by a language model itself, in place of a sentence encoder."""

import numpy as np
import pytest

from model_store.catalog import Catalog
from model_store.text_encoder import TextConfig, TextEncoder
from offline.codes.text_targets import llm_text_vectors
from tests.adapter_versions import AdapterVersions
from tests.tiny_bundle import WORDS

TEXTS = (" ".join(WORDS[:5]), WORDS[3], " ".join(WORDS[2:20]))


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_a_causal_model_without_padding_token_encodes_texts_as_the_mean_of_its_states(tmp_path, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = AdapterVersions(tmp_path)._checkpoint(kind)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    found = TextEncoder(TextConfig(encoder=str(folder))).encode(TEXTS)
    catalog = Catalog(
        item_ids=("a", "b", "c"),
        titles=TEXTS,
        texts=("",) * 3,
        categories=((),) * 3,
        prices=np.full(3, np.nan, dtype=np.float32),
        attributes=({},) * 3,
        available=np.ones(3, dtype=np.bool_),
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = llm_text_vectors(model, tokenizer, catalog, 64, "cpu")
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
