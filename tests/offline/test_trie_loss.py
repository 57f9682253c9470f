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


# Three items: the second level has a node with one child, 1 -> 5; the tokens in use are {1, 2}, {5, 6, 7}, {3}, {3, 4}.
SMALL = np.array([[1, 5, 3, 3], [2, 6, 3, 4], [2, 7, 3, 4]], dtype=np.uint8)


def small_loss(softmax):
    return TrieLoss(PrefixTrie.build(ItemCodes(SMALL)), torch.from_numpy(IDS), torch.device("cpu"), softmax)


def head_of(logits):
    """A head that gives each named token its logit, (level, entry) -> value, where the state is 1."""
    head = torch.zeros(1032, 1)
    for (level, entry), value in logits.items():
        head[IDS[level][entry], 0] = value
    return head.requires_grad_()


LOGITS = {(0, 1): 1.0, (0, 2): 2.0, (1, 5): 0.5, (1, 6): 1.5, (1, 7): -1.0, (2, 3): 3.0, (3, 3): 0.0, (3, 4): 1.0}
STATE = torch.ones(1, 4, 1)


def test_by_hand_over_the_children_a_node_with_one_child_costs_nothing():
    head = head_of(LOGITS)
    loss = small_loss("children").by_position(STATE, torch.tensor([0]), head, None, 0.0)
    # Item 0 is alone from its first token on: log(1 + e^(2 - 1)).
    assert loss.tolist() == pytest.approx([1.3132617])
    loss.sum().backward()
    touched = {(0, 1), (0, 2)}
    for level, entry in LOGITS:
        assert (head.grad[IDS[level][entry], 0] != 0) == ((level, entry) in touched)


def test_by_hand_over_a_level_every_token_in_use_there_counts():
    head = head_of(LOGITS)
    loss = small_loss("level").by_position(STATE, torch.tensor([0]), head, None, 0.0)
    # 1.31326 as before, log(1 + e^1 + e^-1.5), 0 (one token in use), log(1 + e^1).
    assert loss.tolist() == pytest.approx([1.3132617 + 1.3715406 + 0.0 + 1.3132617], abs=1e-5)
    loss.sum().backward()
    # Tokens that are no child of the way to the item are learned too; those no item uses are not.
    assert head.grad[IDS[1][6], 0] > 0
    assert head.grad[IDS[3][4], 0] > 0
    assert head.grad[IDS[1][5], 0] < 0
    in_use = {int(IDS[level][entry]) for level, entry in LOGITS}
    assert set(head.grad[:, 0].nonzero()[:, 0].tolist()) <= in_use


def test_over_a_level_it_is_cross_entropy_over_the_tokens_in_use(world):
    codes, _, hidden, head, items = world
    loss = TrieLoss(PrefixTrie.build(ItemCodes(codes)), torch.from_numpy(IDS), torch.device("cpu"), "level")
    bias = torch.randn(1032, generator=torch.Generator().manual_seed(2))
    expected = torch.zeros(len(items))
    for level in range(4):
        used = np.unique(codes[:, level])
        ids = torch.from_numpy(IDS[level][used])
        targets = torch.from_numpy(np.searchsorted(used, codes[items.numpy(), level]))
        logits = hidden[:, level] @ head[ids].T + bias[ids]
        expected += torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found = loss.by_position(hidden, items, head, None, 0.0, bias)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_over_a_level_the_teacher_enters_as_the_mass_below_each_child(world):
    codes, _, hidden, head, items = world
    loss = TrieLoss(PrefixTrie.build(ItemCodes(codes)), torch.from_numpy(IDS), torch.device("cpu"), "level")
    teacher = torch.rand(len(items), ITEMS, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(len(items))
    for level in range(4):
        used = np.unique(codes[:, level])
        logits = hidden[:, level] @ head[torch.from_numpy(IDS[level][used])].T
        targets = torch.zeros(len(items), len(used))
        for position, item in enumerate(items.tolist()):
            share = 0.6 if level < DISTILLED_LEVELS else 0.0
            alike = (codes[:, :level] == codes[item, :level]).all(axis=1)
            for entry, mass in zip(codes[alike, level], teacher[position, torch.from_numpy(alike)], strict=True):
                column = np.searchsorted(used, entry)
                targets[position, column] += share * mass / teacher[position, torch.from_numpy(alike)].sum()
            targets[position, np.searchsorted(used, codes[item, level])] += 1 - share
        expected += torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found = loss.by_position(hidden, items, head, teacher, 0.6)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
