"""The training loop: it learns, it continues after a kill, and held-out items never reach it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.code_tokens import CodeTokens
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.language_model import LanguageModelConfig, build_language_model
from offline.leave_one_out import leave_one_out
from offline.residual_kmeans import CodesConfig, quantize
from offline.train_language_model import LanguageModelTrainer, TrainingConfig, _drop_items
from offline.training_batches import PADDING, windows

CONFIG = TrainingConfig(epochs=4, validate_every=2, patience=5, validation_users=50, items_per_batch=256)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=150, items=60, seed=0)
    return read_dataset(folder)


def make_trainer(dataset, folder: Path, config=CONFIG, teacher=None):
    vectors = np.random.default_rng(0).normal(size=(len(dataset.catalog), 16)).astype(np.float32)
    quantization = quantize(vectors, CodesConfig(iterations=5), seed=0)
    codes = ItemCodes(quantization.codes_NL)
    settings = LanguageModelConfig(llm="scratch:tiny", text_vocabulary=300)
    model, tokenizer = build_language_model(
        dataset.catalog, quantization.codebooks_LCD, settings, max_positions=128, seed=0
    )
    tokens = CodeTokens.from_vocabulary(tokenizer, folder)
    prompts = PromptEncoder.create(tokenizer, tokens, codes, max_history=20)
    trainer = LanguageModelTrainer(
        model, tokens, prompts, PrefixTrie.build(codes), teacher, config, folder / "run", seed=3
    )
    return trainer, model


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_run_continues_to_the_same_weights(dataset, tmp_path, monkeypatch):
    split = leave_one_out(dataset)
    validation = split.evaluation_cases("valid")
    whole, unbroken = make_trainer(dataset, tmp_path / "unbroken")
    expected = whole.train(split.train, validation)

    first, _ = make_trainer(dataset, tmp_path / "killed")
    epoch = first._epoch
    calls = iter(range(100))

    def die_in_the_third_epoch(*arguments):
        if next(calls) == 2:
            raise Killed
        return epoch(*arguments)

    monkeypatch.setattr(first, "_epoch", die_in_the_third_epoch)
    with pytest.raises(Killed):
        first.train(split.train, validation)

    second, continued = make_trainer(dataset, tmp_path / "killed")
    result = second.train(split.train, validation)
    assert json.dumps(result) == json.dumps(expected)
    for name, tensor in unbroken.state_dict().items():
        torch.testing.assert_close(continued.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_the_loss_falls_and_the_model_beats_chance(dataset, tmp_path):
    split = leave_one_out(dataset)
    config = TrainingConfig(epochs=10, validate_every=5, validation_users=150, items_per_batch=256)
    trainer, _ = make_trainer(dataset, tmp_path, config)
    curve = trainer.train(split.train, split.evaluation_cases("valid"))["curve"]
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert curve[-1]["recall@10"] > 2 * 10 / len(dataset.catalog)


def test_every_batch_row_is_a_piece_of_a_training_history(dataset, tmp_path, monkeypatch):
    """So nothing of a user's last two items can be in it: the training split does not hold them."""
    split = leave_one_out(dataset)
    rows = []
    trainer, _ = make_trainer(dataset, tmp_path, TrainingConfig(epochs=1, validation_users=5, item_dropout=0.0))
    batch_loss = trainer._batch_loss
    monkeypatch.setattr(trainer, "_batch_loss", lambda items: rows.extend(items.tolist()) or batch_loss(items))
    trainer.train(split.train, split.evaluation_cases("valid"))
    trained = sorted(tuple(item for item in row if item != PADDING) for row in rows)
    assert trained == sorted(tuple(piece.tolist()) for piece in windows(split.train, 20))


def test_items_are_left_out_at_random_and_never_reordered():
    pieces = [np.arange(40, dtype=np.int32)] * 50
    shorter = _drop_items(pieces, 0.25, np.random.default_rng(0))
    assert all((np.diff(piece) > 0).all() for piece in shorter)
    assert np.mean([len(piece) for piece in shorter]) == pytest.approx(30, abs=1)


def test_distillation_pulls_the_model_towards_the_teacher(dataset, tmp_path):
    """A teacher that always names one item must raise that item's probability."""
    split = leave_one_out(dataset)
    favourite = 7

    def teacher(items_BT):
        probabilities = torch.zeros(*items_BT.shape, len(dataset.catalog), dtype=torch.float64)
        probabilities[..., favourite] = 1
        return probabilities

    scores = {}
    for weight in (0.0, 0.9):
        config = TrainingConfig(epochs=6, distillation=weight, validation_users=5)
        trainer, model = make_trainer(dataset, tmp_path / str(weight), config, teacher)
        trainer.train(split.train, split.evaluation_cases("valid"))
        first_token = trainer._prompts.item_tokens_NL[favourite, 0]
        prompt = torch.from_numpy(trainer._prompts.sequential(split.train[0]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model.eval()(input_ids=prompt).logits[0, -1, trainer._code_tokens.ids_LC[0]]
        scores[weight] = logits.log_softmax(-1)[first_token - trainer._code_tokens.ids_LC[0, 0]].item()
    assert scores[0.9] > scores[0.0] + 1
