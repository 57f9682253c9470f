"""The loss of a step against its definition, example by example."""

import numpy as np
import pytest
import torch

from model_store.collaborative.encoder import PADDING
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.language_model_training.step_loss import StepLoss
from offline.tasks.task_mix import FAMILIES
from tests.offline.small_trainer import small_trainer

HISTORIES = torch.tensor([[3, 1, 4, 1, 5], [9, 2, PADDING, PADDING, PADDING]])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A trainer, its model, and packed examples of every family."""
    folder = tmp_path_factory.mktemp("shop")
    generate(folder, users=60, items=40, seed=0)
    trainer, model, _ = small_trainer(read_dataset(folder), folder / "run")
    tasks = trainer._tasks.beside(items=3000, epoch=0, index=0)
    assert {example.family for example in tasks.examples} == set(FAMILIES)
    return trainer, model.eval(), tasks


def step_loss(trainer, model, **settings):
    chosen = {"distillation": 0.0, "task_weight": 1.0, "autocast": False} | settings
    return StepLoss(model, trainer._code_tokens, trainer._prompts, trainer._trie, None, **chosen)


def loss_alone(trainer, model, example):
    """The mean cross-entropy of words, or the negative log-likelihood of an item among all there are."""
    tokens = torch.from_numpy(example.tokens.astype(np.int64))
    answer = tokens[example.response_start :]
    if example.item < 0:
        logits = model(input_ids=tokens[None]).logits[0, example.response_start - 1 : -1]
        return torch.nn.functional.cross_entropy(logits, answer).item()
    total = 0.0
    logits = model(input_ids=tokens[None]).logits[0]
    spelled = trainer._prompts.item_tokens_NL
    for level, token in enumerate(answer.tolist()):
        alike = (spelled[:, :level] == answer[:level].numpy()).all(axis=1)
        siblings = torch.from_numpy(np.unique(spelled[alike, level]).astype(np.int64))
        log_probs = logits[example.response_start - 1 + level, siblings].log_softmax(-1)
        total -= log_probs[siblings == token].item()
    return total


@torch.no_grad()
def test_each_family_has_the_sum_of_its_examples_losses(world):
    trainer, model, tasks = world
    sums = step_loss(trainer, model)(HISTORIES, tasks).task_sums_F
    expected = dict.fromkeys(FAMILIES, 0.0)
    for example in tasks.examples:
        expected[example.family] += loss_alone(trainer, model, example)
    assert sums.tolist() == pytest.approx(list(expected.values()), rel=1e-4)


@torch.no_grad()
def test_tasks_enter_with_their_weight_as_a_mean_over_examples(world):
    trainer, model, tasks = world
    loss, sequential, _, sums = step_loss(trainer, model, task_weight=0.3)(HISTORIES, tasks)
    assert loss.item() == pytest.approx(sequential.item() + 0.3 * sums.sum().item() / len(tasks.examples), rel=1e-6)
    alone, same, contrast, none = step_loss(trainer, model)(HISTORIES, None)
    assert alone.item() == same.item() == sequential.item()
    assert contrast.item() == 0
    assert none.tolist() == [0.0] * len(FAMILIES)


@torch.no_grad()
def test_over_a_level_an_answer_costs_its_cross_entropy_among_the_tokens_in_use(world):
    trainer, model, tasks = world
    sums = step_loss(trainer, model, softmax="level")(HISTORIES, tasks).task_sums_F
    spelled = trainer._prompts.item_tokens_NL
    expected = dict.fromkeys(FAMILIES, 0.0)
    for example in tasks.examples:
        if example.item < 0:
            expected[example.family] += loss_alone(trainer, model, example)
            continue
        tokens = torch.from_numpy(example.tokens.astype(np.int64))
        logits = model(input_ids=tokens[None]).logits[0, example.response_start - 1 : -1]
        for level, token in enumerate(tokens[example.response_start :].tolist()):
            used = np.unique(spelled[:, level])
            log_probs = logits[level, torch.from_numpy(used).long()].log_softmax(-1)
            expected[example.family] -= log_probs[int(np.searchsorted(used, token))].item()
    assert sums.tolist() == pytest.approx(list(expected.values()), rel=1e-4)


@torch.no_grad()
def test_bfloat16_is_near(world):
    trainer, model, tasks = world
    _, exact, _, exact_sums = step_loss(trainer, model)(HISTORIES, tasks)
    _, near, _, near_sums = step_loss(trainer, model, autocast=True)(HISTORIES, tasks)
    assert near.dtype == near_sums.dtype == torch.float32
    assert near.item() != exact.item()
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0)
    torch.testing.assert_close(near_sums, exact_sums, rtol=0.05, atol=0)


def test_the_same_batch_of_an_epoch_has_the_same_tasks_and_no_other_has(world):
    tasks = world[0]._tasks

    def drawn(epoch, index):
        return tasks.beside(100, epoch, index).input_ids.tolist()

    assert drawn(2, 5) == drawn(2, 5)
    assert len({str(drawn(epoch, index)) for epoch in range(3) for index in range(3)}) == 9
