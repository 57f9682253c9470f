import numpy as np
import pytest
import torch

from model_store.errors import TesseraError
from offline.codes.config import CodesConfig
from offline.codes.text_targets import llm_text_vectors, text_targets
from offline.language_model import LanguageModelConfig, build_language_model
from tests.offline.codes.made_items import made_catalog

ALIGNED_TO_LLM = CodesConfig(kind="codebooks", align_to="llm")


@pytest.fixture(scope="module")
def catalog():
    return made_catalog([("Pens",), ("Paper", "Notebooks")] * 12)


@pytest.fixture(scope="module")
def language_model(catalog):
    config = LanguageModelConfig(llm="scratch:tiny", text_vocabulary=300, token_start="random")
    return build_language_model(catalog, np.zeros((4, 256, 8), np.float32), config, max_positions=256, seed=0)


def test_a_text_is_the_mean_of_the_last_hidden_states_of_its_own_tokens(catalog, language_model):
    """Texts of a batch differ in length: what pads them must not count."""
    model, tokenizer = language_model
    limit = 35
    vectors = llm_text_vectors(model, tokenizer, catalog, limit, "cpu")
    assert vectors.shape == (len(catalog), model.config.hidden_size)
    lengths = set()
    for item in range(len(catalog)):
        ids = torch.tensor([tokenizer(catalog.document(item))["input_ids"][:limit]])
        lengths.add(ids.shape[1])
        with torch.no_grad():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(vectors[item], states[0].mean(0).numpy(), atol=1e-4)
    assert limit in lengths
    assert len(lengths) > 1


def test_a_checkpoint_is_read_by_its_name(catalog, language_model, tmp_path):
    model, tokenizer = language_model
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    targets = text_targets(catalog, np.zeros((len(catalog), 3), np.float32), ALIGNED_TO_LLM, str(tmp_path), 20, "cpu")
    np.testing.assert_allclose(targets, llm_text_vectors(model, tokenizer, catalog, 20, "cpu"), atol=1e-5)


def test_the_sentence_encoders_vectors_are_the_targets_unless_the_llm_is_asked_for(catalog):
    text = np.ones((len(catalog), 3), np.float32)
    assert text_targets(catalog, text, CodesConfig(kind="codebooks"), "scratch:tiny", 20, "cpu") is text


@pytest.mark.parametrize("settings", [{"kind": "kmeans"}, {"kind": "codebooks", "alignment": "none"}])
def test_codes_that_are_not_aligned_have_no_targets(catalog, settings):
    config = CodesConfig(**settings, align_to="llm")
    assert text_targets(catalog, np.ones((len(catalog), 3), np.float32), config, "scratch:tiny", 20, "cpu") is None


@pytest.mark.parametrize(("llm", "message"), [("scratch:tiny", "pretrained"), ("/no/such/model", "/no/such/model")])
def test_a_language_model_that_cannot_be_asked_is_an_error_that_names_it(catalog, llm, message):
    with pytest.raises(TesseraError, match=message):
        text_targets(catalog, np.ones((len(catalog), 3), np.float32), ALIGNED_TO_LLM, llm, 20, "cpu")
