"""The training loss against the definition, computed item by item."""

import numpy as np
import pytest
import torch

from model_store.item_codes import ItemCodes
from model_store.prefix_trie import PrefixTrie
from offline.trie_loss import DISTILLED_LEVELS, TrieLoss

ITEMS, HIDDEN = 40, 8
IDS = (np.arange(1024) + 8).reshape(4, 256)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.unique(rng.integers(0, [5, 4, 3, 4], (ITEMS * 3, 4)).astype(np.uint8), axis=0))[:ITEMS]
    loss = TrieLoss(PrefixTrie.build(ItemCodes(codes)), torch.from_numpy(IDS), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 4, HIDDEN, generator=generator)
    head = torch.randn(1032, HIDDEN, generator=generator)
    return codes, loss, hidden, head, torch.tensor([0, 3, 7, 7, 20, 39])


def children_of(codes, item, level):
    return np.unique(codes[(codes[:, :level] == codes[item, :level]).all(axis=1), level])


def log_probs(codes, hidden, head, position, item, level):
    tokens = IDS[level][children_of(codes, item, level)]
    return (head[torch.from_numpy(tokens)] @ hidden[position, level]).log_softmax(-1)


def own_column(codes, item, level):
    return int(np.searchsorted(children_of(codes, item, level), codes[item, level]))


def test_without_a_teacher_it_is_the_items_negative_log_likelihood_under_the_trie(world):
    codes, loss, hidden, head, items = world
    expected = -sum(
        log_probs(codes, hidden, head, position, item, level)[own_column(codes, item, level)]
        for position, item in enumerate(items.tolist())
        for level in range(4)
    ) / len(items)
    assert loss.by_position(hidden, items, head, None, 0.0).mean().item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_teacher_enters_as_the_mass_below_each_child(world):
    codes, loss, hidden, head, items = world
    teacher = torch.rand(len(items), ITEMS, generator=torch.Generator().manual_seed(1))
    teacher[2] = 0  # where it has no opinion, only the item itself counts
    expected = 0.0
    for position, item in enumerate(items.tolist()):
        for level in range(4):
            probs = log_probs(codes, hidden, head, position, item, level)
            hard = -probs[own_column(codes, item, level)]
            if level >= DISTILLED_LEVELS or position == 2:
                expected += hard
                continue
            below = [
                teacher[position, (codes[:, : level + 1] == [*codes[item, :level], child]).all(axis=1)].sum()
                for child in children_of(codes, item, level)
            ]
            targets = torch.stack(below) / sum(below)
            expected += 0.4 * hard + 0.6 * -(targets * probs).sum()
    assert loss.by_position(hidden, items, head, teacher, 0.6).mean().item() == pytest.approx(
        expected.item() / len(items), abs=1e-5
    )


def test_a_teacher_does_not_break_the_gradient(world):
    _, loss, hidden, head, items = world
    hidden = hidden.clone().requires_grad_()
    loss.by_position(hidden, items, head, torch.zeros(len(items), ITEMS), 0.5).mean().backward()
    assert torch.isfinite(hidden.grad).all()
