"""The contrast's loss against its formula, and which states it looks at."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from model_store.collaborative.encoder import PADDING
from model_store.errors import TesseraError
from offline.generate_catalogue import generate
from offline.interactions import read_dataset
from offline.language_model_training.global_contrast import ContrastConfig, GlobalContrast
from offline.language_model_training.step_loss import StepLoss
from tests.offline.small_trainer import small_trainer

ITEMS, HIDDEN = 12, 6
ALL = np.ones(ITEMS, dtype=np.bool_)
rng = np.random.default_rng(0)
TEXT = rng.normal(size=(ITEMS, 5)).astype(np.float32)
BEHAVIOUR = rng.normal(size=(ITEMS, 3)).astype(np.float32)
STATES = torch.from_numpy(rng.normal(size=(4, HIDDEN)).astype(np.float32))
TARGETS = torch.tensor([3, 0, 11, 3])
PAIRS = list(zip(STATES, TARGETS.tolist(), strict=True))


def contrast(known=ALL, **settings):
    config = ContrastConfig(**{"text_weight": 0.3, "behaviour_weight": 0.2, "negatives": 100} | settings)
    return GlobalContrast(HIDDEN, TEXT, BEHAVIOUR, config, 0, known)


def loss_of(module, source, vectors, state, target, others):
    """-log of the target's share, by the formula of the paper's code."""
    projected = module.projections[source](state / state.norm())
    similarity = {item: cosine_similarity(projected, torch.from_numpy(vectors[item]), dim=0) for item in others}
    shares = torch.stack([similarity[item] / module.config.temperature for item in others]).softmax(0)
    return -shares[others.index(target)].log().item()


def test_it_is_infonce_of_both_sources_over_all_items_where_all_are_drawn():
    module = contrast()
    everyone = list(range(ITEMS))
    expected = sum(
        weight * np.mean([loss_of(module, source, vectors, *pair, everyone) for pair in PAIRS])
        for source, vectors, weight in (("text", TEXT, 0.3), ("behaviour", BEHAVIOUR, 0.2))
    )
    assert module(STATES, TARGETS).item() == pytest.approx(expected, rel=1e-5)


def test_items_never_taken_are_neither_target_nor_negative_of_behaviour():
    known = ALL.copy()
    known[[0, 5]] = False
    module = contrast(known, text_weight=0.0)
    everyone = np.flatnonzero(known).tolist()
    pairs = [(state, target) for state, target in PAIRS if known[target]]
    assert len(pairs) == 3
    expected = 0.2 * np.mean([loss_of(module, "behaviour", BEHAVIOUR, *pair, everyone) for pair in pairs])
    assert module(STATES, TARGETS).item() == pytest.approx(expected, rel=1e-5)


def test_negatives_are_the_same_for_every_target_and_source():
    module = contrast(negatives=4)
    torch.manual_seed(5)
    drawn = torch.randperm(ITEMS)[:4].tolist()
    expected = 0.0
    for source, vectors, weight in (("text", TEXT, 0.3), ("behaviour", BEHAVIOUR, 0.2)):
        losses = [
            loss_of(module, source, vectors, state, target, [target, *(item for item in drawn if item != target)])
            for state, target in PAIRS
        ]
        expected += weight * np.mean(losses)
    torch.manual_seed(5)
    assert module(STATES, TARGETS).item() == pytest.approx(expected, rel=1e-5)


def test_a_source_without_weight_has_no_projection():
    assert set(contrast(text_weight=0.0).projections) == {"behaviour"}
    assert set(contrast(behaviour_weight=0.0).projections) == {"text"}
    assert not ContrastConfig().wanted


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"negatives": 0}, {"state": "middle"}, {"text_weight": -1.0}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(TesseraError, match=rf"contrast\.{next(iter(settings))}"):
        ContrastConfig(**settings)


@pytest.mark.parametrize("state", ["end", "start"])
def test_the_end_state_has_read_the_target_and_the_start_state_has_not(tmp_path, state):
    """Each target with the state that gives its loss, found by changing one item of the history."""
    generate(tmp_path, users=60, items=40, seed=0)
    trainer, model, _ = small_trainer(read_dataset(tmp_path), tmp_path / "run", share=0.0)
    items = len(trainer._prompts.item_tokens_NL)
    vectors = np.random.default_rng(0).normal(size=(items, 4)).astype(np.float32)
    config = ContrastConfig(text_weight=1.0, state=state)
    module = GlobalContrast(64, vectors, vectors, config, 0, np.ones(items, dtype=np.bool_))
    seen = []
    module.forward = lambda states, targets: seen.append((states, targets)) or states.sum() * 0
    loss = StepLoss(
        model.eval(),
        trainer._code_tokens,
        trainer._prompts,
        trainer._trie,
        None,
        distillation=0.0,
        task_weight=1.0,
        autocast=False,
        contrast=module,
    )
    with torch.no_grad():
        for last in (5, 6):
            loss(torch.tensor([[3, 1, last], [9, PADDING, PADDING]]), None)
    (first, targets), (second, _) = seen
    assert targets.tolist() == [3, 1, 5, 9]
    changed = [not torch.allclose(*pair, atol=1e-6) for pair in zip(first, second, strict=True)]
    assert changed == [False, False, state == "end", False]
