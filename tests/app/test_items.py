"""Similar and popular items, and the published versions."""

import numpy as np
import pytest

from model_store.bundle import Bundle
from tests.app.conftest import RunningApp, ids
from tests.app.light_bundle import OUT_OF_STOCK, UNPRICED

pytestmark = pytest.mark.anyio


async def test_similar_items_are_the_nearest(api: RunningApp, bundle: Bundle) -> None:
    answer = await api.client.get("/similar/item-5?n=4&exclude=item-1")
    nearness = bundle.item_embeddings @ bundle.item_embeddings[5]
    order = [item for item in np.argsort(-nearness).tolist() if item not in (1, 5, *OUT_OF_STOCK)]
    assert ids(answer) == [f"item-{item}" for item in order[:4]]
    assert answer.json()["items"][0]["score"] == pytest.approx(float(nearness[order[0]]), abs=1e-6)
    page = await api.client.get("/similar/item-5?n=2&offset=2&exclude=item-1")
    assert page.json()["items"] == answer.json()["items"][2:]


async def test_popular_items_follow_the_counts(api: RunningApp, bundle: Bundle) -> None:
    answer = await api.client.get("/popular?n=5&category=toys")
    toys = [i for i, names in enumerate(bundle.catalog.categories) if "toys" in names and i not in OUT_OF_STOCK]
    assert ids(answer) == [f"item-{i}" for i in sorted(toys, key=lambda item: -bundle.popularity[item])[:5]]


async def test_unpriced_items_meet_no_price(api: RunningApp) -> None:
    shown = ids(await api.client.get("/popular?n=100&price_min=0"))
    assert shown
    assert not {f"item-{item}" for item in UNPRICED} & set(shown)


async def test_models_are_listed(api: RunningApp) -> None:
    body = (await api.client.get("/models")).json()
    assert body["served"] == "light-1"
    assert [(model["version"], model["served"]) for model in body["models"]] == [("light-1", True)]
    assert body["unreadable"] == {}


async def test_unreadable_version_does_not_hide_the_others(api: RunningApp, bundle: Bundle) -> None:
    broken = bundle.path.parent / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    try:
        body = (await api.client.get("/models")).json()
    finally:
        (broken / "manifest.json").unlink()
        broken.rmdir()
    assert list(body["unreadable"]) == ["broken"]
    assert str(bundle.path.parent) not in str(body)
    assert len(body["models"]) == 1
