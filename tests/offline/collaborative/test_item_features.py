"""What the catalogue says of items, and what an encoder makes of it."""

from dataclasses import replace

import numpy as np

from model_store.catalog import Catalog
from offline.collaborative.item_features import ItemFeatures
from offline.collaborative.kinds import train_encoder
from offline.leave_one_out import EvaluationCases
from tests.offline.collaborative.clustered_shop import histories, quick_config


def catalogue(categories, attributes):
    count = len(categories)
    return Catalog(
        item_ids=tuple(f"i{index}" for index in range(count)),
        titles=("",) * count,
        texts=("",) * count,
        categories=tuple(categories),
        prices=np.full(count, np.nan, dtype=np.float32),
        attributes=tuple(attributes),
        available=np.ones(count, dtype=np.bool_),
    )


def labels_of(features, item):
    ends = [*features.offsets[1:], len(features.labels)]
    return set(features.labels[features.offsets[item] : ends[item]].tolist())


def test_labels_are_what_two_items_or_more_have_in_common():
    features = ItemFeatures.of(
        catalogue(
            [("Shoes", "Orange"), ("Shoes",), ("Shoes", "Shoes"), ()],
            [{"brand": "Orange"}, {"colour": "Orange"}, {"colour": "Orange"}, {}],
        ),
        np.zeros((4, 3), dtype=np.float32),
    )
    shoes, orange_colour = labels_of(features, 1)
    assert features.label_count == 2
    assert labels_of(features, 0) < {shoes, orange_colour}, "neither its brand nor the category Orange is shared"
    assert labels_of(features, 2) == {shoes, orange_colour}
    assert labels_of(features, 3) == set()


def shop_with_a_new_item():
    """Two shelves of ten items; users stay on one, and nobody has met the last item of either."""
    rng = np.random.default_rng(0)
    rows = [[shelf * 10 + item for item in rng.permutation(9)[:5]] for shelf in rng.integers(0, 2, 200)]
    cases = EvaluationCases(
        histories([row[:-1] for row in rows]), np.array([row[-1] for row in rows], np.int32), np.arange(len(rows))
    )
    return histories([row[:-1] for row in rows]), cases


def score_of_new_items(features):
    train, cases = shop_with_a_new_item()
    config = replace(quick_config("sasrec"), item_features=True)
    encoder, _ = train_encoder(train, cases, 20, config, seed=0, features=features)
    logits = encoder.next_item_logits([np.array([11, 13, 12], np.int32)])[0]
    return logits[19] - logits[9]


NOISE = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32) * 1e-3


def test_an_item_nobody_took_is_known_by_its_shelf():
    shelves = [("left",)] * 10 + [("right",)] * 10
    said = score_of_new_items(ItemFeatures.of(catalogue(shelves, [{}] * 20), NOISE))
    nothing_said = score_of_new_items(ItemFeatures.of(catalogue([()] * 20, [{}] * 20), NOISE))
    assert said > 0.5 > 0.2 > abs(nothing_said)


def test_an_item_nobody_took_is_known_by_its_text():
    text = NOISE.copy()
    text[:10, 0] += 1
    assert score_of_new_items(ItemFeatures.of(catalogue([()] * 20, [{}] * 20), text)) > 0.5
