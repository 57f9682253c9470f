"""What only DIN does: it reads a history from where a candidate stands."""

import math

import numpy as np
import pytest
import torch

from model_store.collaborative import din
from model_store.collaborative.configs import DINConfig
from model_store.collaborative.din import DIN, HISTORY, WINDOWS
from model_store.collaborative.encoder import PADDING
from offline.collaborative.train_din import (
    prefixes,
    rate,
    sampled_softmax,
    windows_before,
    with_negatives,
)
from tests.offline.collaborative.clustered_shop import histories

ITEMS = 40


@pytest.fixture
def encoder() -> DIN:
    """Of random weights and statistics, as if trained."""
    torch.manual_seed(0)
    encoder = DIN(ITEMS, DINConfig(size=8))
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(0.3 * torch.randn_like(value))
    return encoder.eval()


def windows(*rows):
    return torch.tensor([[PADDING] * (HISTORY - len(row)) + list(row) for row in rows])


def some_windows():
    rng = np.random.default_rng(1)
    return windows([5], [3, 9, 3], rng.integers(ITEMS, size=8), rng.integers(ITEMS, size=HISTORY))


def plain_score(encoder, history, candidate):
    """The paper's formula, word for word, of one history and one candidate."""
    q = encoder.vectors()[candidate]
    places = [None] * (HISTORY - len(history)) + list(history)
    sums, at = [], 0
    for width in WINDOWS:
        total = torch.zeros_like(q)
        for item in places[at : at + width]:
            if item is not None:
                h = encoder.vectors()[item]
                pair = encoder.pair(torch.cat([q, h, q - h, q * h]))[None]
                total = (
                    total
                    + encoder.weight(encoder.interest_dice(encoder.interest(encoder.pair_dice(pair)))).squeeze() * h
                )
        sums.append(total)
        at += width
    x = encoder.join(torch.cat([*sums, q]))[None]
    x = encoder.reduce(encoder.join_dice(encoder.join_norm(x)))
    return encoder.score(encoder.reduce_dice(encoder.reduce_norm(x))).squeeze()


def test_scores_of_candidates_are_those_of_the_formula(encoder):
    candidates = torch.tensor([[0, 5, 7], [3, 9, 1], [2, 2, 39], [11, 12, 13]])
    scores = encoder.candidate_scores(some_windows(), candidates)
    for row, window in enumerate(some_windows()):
        history = window[window != PADDING].tolist()
        expected = torch.stack([plain_score(encoder, history, item) for item in candidates[row].tolist()])
        torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_scores_are_those_of_the_formula(encoder):
    history, candidates = [7, 2, 7, 30, 31, 1, 4], [9, 2, 38]
    score = encoder.candidate_scores(windows(history), torch.tensor([candidates])).sum()
    expected = sum(plain_score(encoder, history, item) for item in candidates)
    parameters = list(encoder.parameters())
    for one, other in zip(
        torch.autograd.grad(score, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("pairs", "weights"), [(1 << 13, 1 << 26), (7, 1)])
def test_scores_of_all_items_are_those_of_each_however_they_are_cut(encoder, monkeypatch, pairs, weights):
    monkeypatch.setattr(din, "_PAIRS", pairs)
    monkeypatch.setattr(din, "_WEIGHTS", weights)
    each = encoder.candidate_scores(some_windows(), torch.arange(ITEMS).expand(4, -1))
    torch.testing.assert_close(encoder.scores(some_windows()), each, rtol=1e-4, atol=1e-5)


def test_in_training_padding_leaves_no_trace_in_statistics(encoder):
    rows, candidates = [[4, 5], [7, 8, 9]], torch.tensor([[1, 2, 3], [4, 5, 6]])
    encoder.pair_dice.norm.momentum = 1.0
    encoder.train().candidate_scores(windows(*rows), candidates)
    read = []
    for row, items in enumerate(rows):
        for h in encoder.vectors()[items]:
            read += [encoder.pair(torch.cat([q, h, q - h, q * h])) for q in encoder.vectors()[candidates[row]]]
    torch.testing.assert_close(encoder.pair_dice.norm.running_mean, torch.stack(read).mean(0))
    torch.testing.assert_close(encoder.pair_dice.norm.running_var, torch.stack(read).var(0))


def test_an_item_counts_for_one_candidate_more_than_for_another_and_weights_need_not_sum_to_one(encoder):
    table, items = encoder.vectors(), torch.tensor([3, 9])
    weights = encoder._weights(table[None, :, :], table[items], torch.tensor([0, 0]))
    assert weights.shape == (2, ITEMS)
    assert (weights.std(dim=1) > 0.05).all()
    assert weights.sum(dim=0).std() > 0.05


def test_a_history_speaks_through_its_weights_alone(encoder):
    before = encoder.scores(some_windows())
    assert not torch.allclose(before[0], before[1])
    with torch.no_grad():
        encoder.weight.weight.zero_()
        encoder.weight.bias.zero_()
    silent = encoder.scores(some_windows())
    torch.testing.assert_close(silent, silent[:1].expand_as(silent))


def test_weights_alike_for_all_candidates_would_give_other_scores(encoder):
    """What the activation unit says of one candidate is not what a plain weighted sum would say of all."""
    own = encoder.scores(some_windows())
    with torch.no_grad():
        q, h, difference, _ = encoder.pair.weight.chunk(4, dim=1)
        blind = torch.cat([-difference, h, difference, torch.zeros_like(q)], dim=1)
        encoder.pair.weight.copy_(blind)
    weights = encoder._weights(encoder.vectors()[None], encoder.vectors()[[3, 9]], torch.tensor([0, 0]))
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))
    assert not torch.allclose(encoder.scores(some_windows()), own, rtol=0.05)


def test_only_the_newest_items_are_read(encoder):
    newest = np.arange(HISTORY, dtype=np.int32)
    longer = np.concatenate([[30, 31, 32], newest]).astype(np.int32)
    older = encoder.next_item_logits([longer[:-1]])
    torch.testing.assert_close(*encoder.next_item_logits([newest, longer]), rtol=0, atol=0)
    assert not torch.allclose(older, encoder.next_item_logits([newest]))


def test_the_loss_takes_each_candidates_chance_to_be_drawn_off_its_logit():
    scores = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    chance = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]])
    by_hand = [
        math.log(math.e / 0.5 + math.e**2 / 0.25 + math.e**0.5 / 0.25) - math.log(math.e / 0.5),
        math.log(1 / 0.1 + math.e**-1 / 0.6 + math.e**3 / 0.3) - math.log(1 / 0.1),
    ]
    assert sampled_softmax(scores, chance.log()).item() == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    uniform = torch.full_like(scores, -math.log(40))
    plain = torch.nn.functional.cross_entropy(scores, torch.tensor([0, 0]))
    torch.testing.assert_close(sampled_softmax(scores, uniform), plain)


def test_every_prefix_is_trained_on_and_none_reaches_into_another_history():
    rows = histories([[1, 2, 3], [4], [*range(10, 32)], [5, 6]])
    places, begins = prefixes(rows)
    assert rows.items[places].tolist() == [2, 3, *range(11, 32), 6]
    read = windows_before(rows.items, places, begins)
    assert [row[row != PADDING].tolist() for row in read[:3]] == [[1], [1, 2], [10]]
    assert read[-2].tolist() == list(range(12, 31))
    assert read[-1].tolist() == [PADDING] * (HISTORY - 1) + [5]


def test_negatives_are_all_the_other_items_alike():
    targets = np.array([0, 3, 5], np.int32).repeat(2000)
    drawn = with_negatives(targets, 6, 10, np.random.default_rng(0))
    assert (drawn[:, 0] == targets).all()
    for target in (0, 3, 5):
        counts = np.bincount(drawn[targets == target, 1:].ravel(), minlength=6)
        assert counts[target] == 0
        np.testing.assert_allclose(np.delete(counts, target) / 20_000, 0.2, atol=0.02)


def test_the_learning_rate_rises_to_its_highest_and_falls_by_e_in_three_times_as_many_steps():
    assert [rate(step, 10) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1])
    assert rate(39, 10) == pytest.approx(1 / math.e)
    assert rate(10_000, 10) == 1e-3
