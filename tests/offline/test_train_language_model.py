"""The training loop: it learns, it continues after a kill, and held-out items never reach it."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from model_store.collaborative.encoder import PADDING, pad
from model_store.decoders.language_model import HuggingFaceModel
from model_store.errors import TesseraError
from model_store.item_codes import ItemCodes
from offline.code_validity import spelled
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.language_model_training.epoch_totals import EpochTotals
from offline.language_model_training.global_contrast import ContrastConfig
from offline.language_model_training.low_rank import LoraConfig
from offline.leave_one_out import leave_one_out
from offline.per_position_decode import PerPositionDecoder
from offline.tasks.task_mix import FAMILIES
from offline.train_language_model import TrainingConfig
from offline.training_batches import batches, leave_out, windows
from tests.offline.small_trainer import QUICK, small_trainer

CONTRAST = ContrastConfig(text_weight=0.1, behaviour_weight=0.1, negatives=20)
SHORT = TrainingConfig(epochs=1, validation_users=5, item_dropout=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=80, items=60, seed=0)
    return read_dataset(folder)


@pytest.fixture(scope="module")
def split(dataset):
    return leave_one_out(dataset)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("share", "changes"),
    [(0.0, {}), (0.5, {"accumulate": 3}), (0.5, {"method": "lora"}), (0.0, {"contrast": CONTRAST, "keep_start": True})],
    ids=["sequential", "tasks", "adapters", "contrast"],
)
def test_a_killed_run_continues_to_the_same_weights(dataset, split, tmp_path, monkeypatch, share, changes):
    changes = dict(changes)
    settings = {key: changes.pop(key) for key in ("contrast", "keep_start") if key in changes}
    settings |= {"share": share, "dropout": 0.2}
    validation = split.evaluation_cases("valid")
    config = dataclasses.replace(QUICK, epochs=3, **changes)
    whole, unbroken, _ = small_trainer(dataset, tmp_path / "unbroken", config, **settings)
    expected = whole.train(split.train, validation)

    first, _, _ = small_trainer(dataset, tmp_path / "killed", config, **settings)
    epoch = first._epoch
    calls = iter(range(100))

    def die_in_the_third_epoch(*arguments):
        if next(calls) == 2:
            raise Killed
        return epoch(*arguments)

    monkeypatch.setattr(first, "_epoch", die_in_the_third_epoch)
    with pytest.raises(Killed):
        first.train(split.train, validation)

    second, continued, _ = small_trainer(dataset, tmp_path / "killed", config, **settings)
    result = second.train(split.train, validation)
    assert json.dumps(result) == json.dumps(expected)
    for name, tensor in unbroken.state_dict().items():
        torch.testing.assert_close(continued.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_a_run_begun_by_another_number_of_processes_is_not_continued(dataset, split, tmp_path):
    trainer, _, _ = small_trainer(dataset, tmp_path, SHORT, share=0.0)
    trainer.train(split.train, split.evaluation_cases("valid"))
    path = tmp_path / "last.pt"
    content = torch.load(path)
    torch.save(content | {"state": json.dumps(json.loads(content["state"]) | {"processes": 4})}, path)
    again, _, _ = small_trainer(dataset, tmp_path, SHORT, share=0.0)
    with pytest.raises(TesseraError, match=r"begun by 4 process\(es\) and cannot be continued by 1"):
        again.train(split.train, split.evaluation_cases("valid"))


def test_the_loss_falls_and_the_model_beats_chance(dataset, split, tmp_path):
    config = TrainingConfig(epochs=8, validate_every=8, validation_users=80, items_per_batch=128)
    trainer, _, _ = small_trainer(dataset, tmp_path, config, share=0.0, dropout=0.2)
    curve = trainer.train(split.train, split.evaluation_cases("valid"))["curve"]
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert curve[-1]["recall@10"] > 2 * 10 / len(dataset.catalog)


def test_a_start_that_no_epoch_improves_is_kept(dataset, split, tmp_path):
    config = dataclasses.replace(QUICK, learning_rate=0.0, patience=5)
    trainer, model, _ = small_trainer(dataset, tmp_path, config, share=0.0, keep_start=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = trainer.train(split.train, split.evaluation_cases("valid"))
    assert (result["best_epoch"], result["epochs"]) == (0, 2)
    assert [record["epoch"] for record in result["curve"]] == [0, 1, 2]
    for name, tensor in before.items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_the_contrast_is_learned_beside_the_next_item(dataset, split, tmp_path):
    config = dataclasses.replace(QUICK, epochs=6, validate_every=6)
    trainer, model, _ = small_trainer(dataset, tmp_path, config, share=0.0, contrast=CONTRAST)
    curve = trainer.train(split.train, split.evaluation_cases("valid"))["curve"]
    assert curve[-1]["loss_contrast"] < 0.8 * curve[0]["loss_contrast"]
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert not [name for name in model.state_dict() if "projection" in name], "nothing of it is left in the model"


def test_a_softmax_over_a_level_teaches_which_codes_exist(dataset, split, tmp_path):
    invalid = {}
    for softmax in ("children", "level"):
        config = TrainingConfig(
            epochs=8, validate_every=8, validation_users=20, items_per_batch=128, softmax=softmax, item_dropout=0.0
        )
        trainer, model, _ = small_trainer(dataset, tmp_path / softmax, config, share=0.0)
        trainer.train(split.train, split.evaluation_cases("valid"))
        codes = ItemCodes(spelled(trainer._trie, range(len(dataset.catalog))))
        decoder = PerPositionDecoder(HuggingFaceModel(model), trainer._code_tokens, trainer._prompts, codes)
        found = np.concatenate([one.codes_KL for one in decoder.decode([split.train[user] for user in range(40)])])
        invalid[softmax] = (codes.items_of(found) < 0).mean()
    assert invalid["level"] < 0.7 * invalid["children"]


def trained_batches(dataset, split, folder, share):
    """The batches of one epoch, as they reach the loss."""
    trainer, _, _ = small_trainer(dataset, folder, SHORT, share=share)
    gradients, seen = trainer._gradients, []

    def note(step, *others):
        seen.extend(batch.tolist() for batch in step)
        gradients(step, *others)

    trainer._gradients = note
    trainer.train(split.train, split.evaluation_cases("valid"))
    return seen


def test_every_batch_row_is_a_piece_of_a_training_history(dataset, split, tmp_path):
    """So nothing of a user's last two items can be in it: the training split does not hold them."""
    rows = [row for batch in trained_batches(dataset, split, tmp_path, share=0.0) for row in batch]
    trained = sorted(tuple(item for item in row if item != PADDING) for row in rows)
    assert trained == sorted(tuple(piece.tolist()) for piece in windows(split.train, 20))


def test_tasks_leave_the_batches_of_histories_as_they_were(dataset, split, tmp_path):
    without = trained_batches(dataset, split, tmp_path / "without", share=0.0)
    assert trained_batches(dataset, split, tmp_path / "with", share=0.5) == without


def test_items_are_left_out_at_random_and_never_reordered():
    pieces = [np.arange(40, dtype=np.int32)] * 50
    shorter = leave_out(pieces, 0.25, np.random.default_rng(0))
    assert all((np.diff(piece) > 0).all() for piece in shorter)
    assert np.mean([len(piece) for piece in shorter]) == pytest.approx(30, abs=1)


def test_distillation_pulls_the_model_towards_the_teacher(dataset, split, tmp_path):
    """A teacher that always names one item must raise that item's probability."""
    favourite = 7

    def teacher(items_BT):
        likely = torch.zeros(int((items_BT != PADDING).sum()), len(dataset.catalog))
        likely[:, favourite] = 1
        return likely

    scores = {}
    for weight in (0.0, 0.9):
        config = TrainingConfig(epochs=4, distillation=weight, validation_users=5, items_per_batch=128)
        trainer, model, _ = small_trainer(dataset, tmp_path / str(weight), config, teacher=teacher, share=0.0)
        trainer.train(split.train, split.evaluation_cases("valid"))
        first_token = trainer._prompts.item_tokens_NL[favourite, 0]
        prompt = torch.from_numpy(trainer._prompts.sequential(split.train[0]).astype(np.int64))[None]
        with torch.no_grad():
            logits = model.eval()(input_ids=prompt).logits[0, -1, trainer._code_tokens.ids_LC[0]]
        scores[weight] = logits.log_softmax(-1)[first_token - trainer._code_tokens.ids_LC[0, 0]].item()
    assert scores[0.9] > scores[0.0] + 1


def gradients_of(trainer, model, step):
    trainer._gradients(step, 0, 0, EpochTotals())
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_accumulated_batches_have_the_gradient_of_one_that_holds_them_all(dataset, split, tmp_path):
    trainer, model, _ = small_trainer(dataset, tmp_path, share=0.0)
    pieces = windows(split.train, 20)[:40]
    small = list(batches(pieces, 96, np.random.default_rng(0)))[:4]
    assert len({int((batch != PADDING).sum()) for batch in small}) > 1
    large = pad([row[row != PADDING] for batch in small for row in batch])
    together, apart = gradients_of(trainer, model, [large]), gradients_of(trainer, model, small)
    for name, gradient in together.items():
        torch.testing.assert_close(apart[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_run_with_tasks_learns_them_and_says_so_by_family(dataset, split, tmp_path):
    config = TrainingConfig(epochs=4, validate_every=4, validation_users=5, items_per_batch=128)
    trainer, _, _ = small_trainer(dataset, tmp_path, config, share=2.0)
    curve = trainer.train(split.train, split.evaluation_cases("valid"))["curve"]
    first, last = ([record[f"loss_{family}"] for family in FAMILIES] for record in (curve[0], curve[-1]))
    assert sum(last) < 0.8 * sum(first)
    assert all(1.9 < record["task_tokens"] / record["tokens"] < 2.5 for record in curve)


def test_an_adapter_run_learns_and_leaves_a_plain_model_with_the_best_weights(dataset, split, tmp_path):
    _, plain, _ = small_trainer(dataset, tmp_path / "plain")
    trainer, model, _ = small_trainer(dataset, tmp_path / "lora", dataclasses.replace(QUICK, method="lora"))
    trained = trainer.train(split.train, split.evaluation_cases("valid"))
    assert trained["curve"][-1]["loss"] < trained["curve"][0]["loss"]
    assert set(model.state_dict()) == set(plain.state_dict())
    best = next(record for record in trained["curve"] if record["epoch"] == trained["best_epoch"])
    measured = trainer.validate(split.evaluation_cases("valid"))
    assert measured == pytest.approx({name: best[name] for name in measured}, abs=0.02)


def test_adapters_can_be_kept_apart_only_where_there_are_any():
    with pytest.raises(TesseraError, match=r"training\.lora\.merge=false.*training\.method=lora"):
        TrainingConfig(lora=LoraConfig(merge=False))
    assert not TrainingConfig(method="lora", lora=LoraConfig(merge=False)).lora.merge


@pytest.mark.parametrize(
    ("setting", "value"), [("method", "half"), ("precision", "float16"), ("accumulate", 0), ("softmax", "vocabulary")]
)
def test_a_setting_that_cannot_be_is_named(setting, value):
    with pytest.raises(TesseraError, match=rf"training\.{setting}"):
        TrainingConfig(**{setting: value})
