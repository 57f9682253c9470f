"""A ranker's language model: frozen but when it is trained, by adapters or whole, and plain again afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.rankers.ranker import RankRequest
from model_store.rankers.ranker_files import load_ranker, save_ranker
from model_store.rankers.text_only import TextOnlyConfig, TextOnlyRanker
from offline.rankers.ranker_language_model import RankerLanguageModel, RankerLanguageModelConfig
from tests.model_store.rankers.small_rankers import (
    ARCHITECTURES,
    QUESTION,
    small_catalog,
    small_language_model,
    small_tokenizer,
)


def from_folder(folder: Path, architecture: str) -> RankerLanguageModel:
    small_language_model(architecture).model.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    config = RankerLanguageModelConfig(llm=str(folder))
    return RankerLanguageModel(config, small_catalog(), (), 128, "cpu", 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_learns_by_adapters_that_are_merged(tmp_path: Path, architecture: str) -> None:
    language_model = from_folder(tmp_path / "llm", architecture)
    model = language_model.soft.model
    names = set(model.state_dict())
    ranker = TextOnlyRanker(TextOnlyConfig(question=QUESTION), language_model.soft, small_catalog())
    asked = [RankRequest(history=np.array([1, 2], dtype=np.int32), candidates=np.arange(6, dtype=np.int32))]
    before = ranker.rank(asked)[0]
    with language_model.trainable() as parameters:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained
        assert all(".lora_" in name for name in trained)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.05)
        adapted = ranker.rank(asked)[0]
    assert np.abs(adapted - before).max() > 1e-3
    assert not any(p.requires_grad for p in model.parameters())
    language_model.merge()
    assert set(model.state_dict()) == names
    np.testing.assert_allclose(ranker.rank(asked)[0], adapted, atol=1e-4)
    save_ranker(tmp_path / "ranker", ranker)
    np.testing.assert_allclose(load_ranker(tmp_path / "ranker", small_catalog()).rank(asked)[0], adapted, atol=1e-4)


def test_a_scratch_model_is_trained_whole_and_reads_its_answers() -> None:
    config = RankerLanguageModelConfig(text_vocabulary=300)
    language_model = RankerLanguageModel(config, small_catalog(), (" Yes", " No"), 128, "cpu", 0)
    assert not any(p.requires_grad for p in language_model.soft.model.parameters())
    with language_model.trainable() as parameters:
        assert len(parameters) == len(list(language_model.soft.model.parameters()))
        assert all(p.requires_grad for p in parameters)
    assert not any(p.requires_grad for p in language_model.soft.model.parameters())
    again = RankerLanguageModel(config, small_catalog(), (" Yes", " No"), 128, "cpu", 0)
    for one, other in zip(language_model.soft.model.parameters(), again.soft.model.parameters(), strict=True):
        assert torch.equal(one, other)
