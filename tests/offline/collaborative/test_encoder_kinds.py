"""What holds for every kind of collaborative encoder."""

import copy

import numpy as np
import pytest
import torch

from model_store.collaborative.configs import CONFIGS
from model_store.collaborative.encoder import PADDING
from model_store.collaborative.encoder_files import build_encoder, load_encoder, save_encoder
from model_store.errors import BundleCorrupt, TesseraError
from offline.collaborative.kinds import train_encoder
from offline.held_out_ranking import exclude_seen
from offline.ranking_metrics import ranking_metrics, ranks_in_scores
from offline.recipe import load_recipe
from tests.offline.collaborative.clustered_shop import histories, quick_config


def test_it_learns_what_popularity_does_not_tell(shop, trained):
    rows = [shop.validation.histories[row] for row in range(len(shop.validation.targets))]
    popularity = np.tile(np.bincount(shop.train.items, minlength=shop.items).astype(np.float32), (len(rows), 1))
    exclude_seen(popularity, rows)
    popular = ranking_metrics(ranks_in_scores(popularity, shop.validation.targets))
    _, metrics = trained
    assert metrics["ndcg@10"] > 3 * popular["ndcg@10"]


def test_the_metrics_are_those_of_the_encoder_that_is_returned(shop, trained):
    encoder, metrics = trained
    rows = [shop.validation.histories[row] for row in range(len(shop.validation.targets))]
    logits = encoder.next_item_logits(rows).numpy()
    exclude_seen(logits, rows)
    assert ranking_metrics(ranks_in_scores(logits, shop.validation.targets)) == pytest.approx(metrics)


def test_other_items_later_change_no_earlier_state(trained):
    encoder, _ = trained
    items = torch.tensor([[3, 14, 15, 9, 2], [6, 5, 35, 8, 9]])
    changed = items.clone()
    changed[:, 3:] = torch.tensor([[50, 51], [52, 53]])
    with torch.no_grad():
        states, others = encoder(items), encoder(changed)
    torch.testing.assert_close(states[:, :3], others[:, :3])
    assert not torch.allclose(states[:, 3:], others[:, 3:])


def test_a_whole_history_scores_as_its_last_state_whatever_stands_beside_it(trained):
    encoder, _ = trained
    short, long = np.array([4, 9], np.int32), np.array([1, 2, 3, 30, 31], np.int32)
    together = encoder.next_item_logits([short, long])
    torch.testing.assert_close(together[:1], encoder.next_item_logits([short]))
    with torch.no_grad():
        alone = encoder.scores(encoder(torch.from_numpy(long.astype(np.int64))[None]))[0, -1]
    torch.testing.assert_close(together[1], alone)


def test_likelihoods_are_of_the_items_places_up_to_a_factor_and_favour_the_cluster(shop, trained):
    encoder, _ = trained
    items = torch.tensor([[21, 24, 27, PADDING], [33, 30, 38, 31]])
    likely = encoder.likelihoods(items)
    assert (likely.dtype, likely.shape) == (torch.float32, (7, shop.items))
    assert (likely[[0, 3]] == 0).all(), "nothing comes before a first item"
    assert (likely[[1, 2, 4, 5, 6]].amax(-1) == 1).all()
    share = likely / likely.sum(-1, keepdim=True)
    assert share[2, 20:30].sum() > 3 * 10 / shop.items
    assert share[6, 30:40].sum() > 3 * 10 / shop.items


def test_places_beyond_what_an_encoder_reads_have_no_likelihoods():
    encoder = build_encoder(9, CONFIGS["sasrec"](max_length=3)).eval()
    likely = encoder.likelihoods(torch.tensor([[0, 1, 2, 3, 4, 5]]))
    assert likely.any(-1).tolist() == [False, True, True, True, False, False]


def test_vectors_are_one_a_item_of_the_size_asked_for(shop, kind, trained):
    assert trained[0].vectors().shape == (shop.items, quick_config(kind).size)


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others(shop, kind, trained):
    again, _ = train_encoder(shop.train, shop.validation, shop.items, quick_config(kind), seed=0)
    other, _ = train_encoder(shop.train, shop.validation, shop.items, quick_config(kind), seed=1)
    torch.testing.assert_close(again.vectors(), trained[0].vectors(), rtol=0, atol=0)
    assert not torch.allclose(other.vectors(), trained[0].vectors())


def test_a_saved_encoder_scores_as_before(trained, tmp_path):
    encoder, _ = trained
    save_encoder(tmp_path / "encoder", encoder)
    loaded = load_encoder(tmp_path / "encoder")
    assert (loaded.kind, loaded.config) == (encoder.kind, encoder.config)
    rows = histories([[1, 2, 3], [40]])
    torch.testing.assert_close(loaded.next_item_logits(rows), encoder.next_item_logits(rows), rtol=0, atol=0)


def test_a_saved_encoder_of_an_unknown_kind_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"kind": "tarot"}')
    with pytest.raises(BundleCorrupt, match=r"'tarot'.*dccf, din, gru4rec, lightgcn, mf, ncf, nextitnet, sasrec"):
        load_encoder(tmp_path)


def test_an_encoder_scores_items_that_are_appended_by_their_vectors(shop, trained):
    encoder = copy.deepcopy(trained[0])
    encoder.append(encoder.vectors()[[12, 40]].detach())
    logits = encoder.next_item_logits(histories([[11, 13], [shop.items]]))
    assert logits.shape == (2, shop.items + 2)
    torch.testing.assert_close(logits[:, shop.items], logits[:, 12])


def test_users_of_one_item_alone_do_not_disturb_training(shop, kind):
    lonely = histories([[1], [2, 2], [3]])
    encoder, metrics = train_encoder(lonely, shop.validation, shop.items, quick_config(kind), seed=0)
    assert torch.isfinite(encoder.vectors()).all()
    assert 0 <= metrics["ndcg@10"] <= 1


def test_a_recipe_that_names_no_kind_trains_sasrec_with_the_settings_it_always_had():
    config = load_recipe("semantic-convergence", ["collaborative.epochs=4", "collaborative.heads=4"]).collaborative
    assert config == CONFIGS["sasrec"](epochs=4, heads=4)


def test_a_recipe_can_ask_for_every_kind_with_its_own_defaults(kind):
    recipe = load_recipe("semantic-convergence", [f"collaborative.kind={kind}", "collaborative.epochs=3"])
    assert recipe.collaborative == CONFIGS[kind](epochs=3)
    assert recipe.as_dict()["collaborative"]["kind"] == kind


@pytest.mark.parametrize("quoted", ["lightgcn", '"lightgcn"'])
def test_another_kind_by_override_leaves_a_files_settings_of_its_own_kind_behind(tmp_path, quoted):
    path = tmp_path / "mine.toml"
    path.write_text("[collaborative]\nepochs = 8\nitems_per_batch = 512\n")
    overrides = ["collaborative.size=32", f"collaborative.kind={quoted}"]
    assert load_recipe(str(path), overrides).collaborative == CONFIGS["lightgcn"](size=32)
    kept = load_recipe(str(path), ["collaborative.kind=sasrec"]).collaborative
    assert kept == CONFIGS["sasrec"](epochs=8, items_per_batch=512)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["collaborative.kind=tarot"], r"collaborative\.kind 'tarot' is unknown; known kinds: dccf, din, gru4rec, "),
        (["collaborative.kind=3"], r"collaborative\.kind 3 is unknown"),
        (["collaborative.kind=mf", "collaborative.layers=2"], r"unknown setting 'collaborative\.layers'"),
        (["collaborative.kind=dccf", "collaborative.layers=0"], "layers of a dccf encoder must be at least 1, not 0"),
        (["collaborative.kind=dccf", "collaborative.contrast_nodes=0"], "contrast_nodes of a dccf encoder must be at"),
        (
            ["collaborative.kind=din", "collaborative.negatives=0"],
            "negatives of a din encoder must be at least 1, not 0",
        ),
        (["teacher.kind=din", "teacher.warmup=0"], "warmup of a din encoder must be above 0 and at most 1, not 0"),
        (["collaborative.kind=gru4rec", "collaborative.hidden=0"], "hidden of a gru4rec encoder must be at least 1"),
        (["collaborative.kind=nextitnet", "collaborative.blocks=0"], "blocks of a nextitnet encoder must be at least"),
        (["collaborative.kind=ncf", "collaborative.negatives=0"], "negatives of a ncf encoder must be at least 1"),
        (["collaborative.kind=mf", "collaborative.temperature=0"], "temperature of a mf encoder must be above 0"),
    ],
)
def test_a_setting_that_a_kind_does_not_have_or_cannot_use_is_an_error_that_names_it(overrides, message):
    with pytest.raises(TesseraError, match=message):
        load_recipe("semantic-convergence", overrides)
