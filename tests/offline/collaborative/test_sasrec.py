"""What only the sequential encoder learns."""

import numpy as np
import torch

from model_store.collaborative.configs import SASRecConfig
from model_store.collaborative.sasrec import SASRec
from offline.collaborative.train_sasrec import train_sasrec
from offline.leave_one_out import EvaluationCases
from tests.offline.collaborative.clustered_shop import histories

ITEMS = 30


def quick(**settings):
    return SASRecConfig(size=16, epochs=16, learning_rate=0.01, dropout=0.1, items_per_batch=128, **settings)


def trained(rows, config):
    train = histories([row[:-1] for row in rows])
    cases = EvaluationCases(train, np.array([row[-1] for row in rows], np.int32), np.arange(len(rows)))
    return train_sasrec(train, cases, ITEMS, config, seed=0)[0]


def share_of_seen(encoder, rows):
    likely = encoder.next_item_logits([np.array(row, np.int32) for row in rows]).softmax(-1)
    return np.mean([likely[at, np.unique(row)].sum().item() for at, row in enumerate(rows)])


def test_it_learns_from_the_data_whether_items_are_taken_again():
    rng = np.random.default_rng(0)
    never_again = [rng.permutation(ITEMS)[:6].tolist() for _ in range(200)]
    two_steps_later = [[*pair, *pair, *pair] for pair in (rng.permutation(ITEMS)[:2].tolist() for _ in range(200))]
    plain, knowing = trained(never_again, quick()), trained(never_again, quick(repeats=True))
    assert share_of_seen(knowing, never_again) < share_of_seen(plain, never_again) / 2
    habits = trained(two_steps_later, quick(repeats=True))
    assert habits.repeat_logits[1] > 0 > habits.repeat_logits[0]


def test_each_time_an_item_was_taken_adds_the_logit_of_its_distance():
    encoder = SASRec(ITEMS, SASRecConfig(repeats=True)).eval()
    history = [np.array([4, 9, 4, 7], np.int32)]
    before = encoder.next_item_logits(history)[0]
    with torch.no_grad():
        encoder.repeat_logits[:4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    added = encoder.next_item_logits(history)[0] - before
    expected = torch.zeros(ITEMS)
    expected[[7, 4, 9]] = torch.tensor([0.1, 0.2 + 0.4, 0.3]) * 30
    torch.testing.assert_close(added, expected)
