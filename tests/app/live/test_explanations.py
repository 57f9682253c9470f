"""What an answer says of its items, and what is said of an item that is not in it."""

from typing import Any

import httpx
import pytest
import redis
from pydantic import TypeAdapter

from app import embedded_redis
from app.recommendation import ExplainedRecommendation, FullExplanation
from app.settings import Settings
from app.why_not import WhyNot
from model_store.bundle import Bundle
from tests.app.conftest import Cache, RunningApp, running
from tests.app.light_bundle import OUT_OF_STOCK
from tests.app.plain_decoder import PlainDecoder
from tests.app.test_problems import assert_problem

pytestmark = pytest.mark.anyio


async def full(api: RunningApp, **parameters: Any) -> dict[str, Any]:
    answer = await api.client.get("/recommend/ann", params={"explain": "full", **parameters})
    answer.raise_for_status()
    assert isinstance(TypeAdapter(ExplainedRecommendation).validate_python(answer.json()).explain, FullExplanation)
    body: dict[str, Any] = answer.json()
    return body


async def test_full_explanation_names_items_rules_filter_and_engines(
    api: RunningApp, cache: Cache, bundle: Bundle
) -> None:
    cache.put_entry("ann", [9, OUT_OF_STOCK[0], 8, 7, 6])
    cache.put_history("ann", [8])
    body = await full(api, n=3, exclude=["item-7", "item-8", "no-such-item"])
    explain = body["explain"]
    assert explain["model_version"] == body["model_version"] == "light-1"
    assert explain["removed_items"] == [
        {"item_id": f"item-{OUT_OF_STOCK[0]}", "rank": 2, "rules": ["out_of_stock"]},
        {"item_id": "item-8", "rank": 3, "rules": ["seen", "excluded"]},
        {"item_id": "item-7", "rank": 4, "rules": ["excluded"]},
    ]
    assert explain["removed"] == {"seen": 1, "withheld": 0, "excluded": 2, "hidden": 0, "out_of_stock": 1}
    assert [(one["item_id"], one["reason"], one["log_probability"]) for one in explain["items"]] == [
        (one["item_id"], one["reason"], one["score"]) for one in body["items"]
    ]
    assert [one["reason"] for one in explain["items"]] == ["cache", "cache", "live"]
    assert [one["code"] for one in explain["items"]] == [one["code"] for one in body["items"]]
    assert (explain["entry_engine"], explain["live_engine"]) == ("torch", "torch")
    assert set(explain["stages_ms"]) == {"redis", "cache", "live"}
    assert explain["filter"] == {
        "category": [],
        "price_min": None,
        "price_max": None,
        "in_stock": True,
        "excluded": 2,
        "only": None,
        "max_per_prefix": None,
        "prefix_levels": 1,
    }


async def test_items_that_no_model_ranked_have_no_probability(api: RunningApp) -> None:
    explain = (await full(api, n=2, price_min=5, category=["toys"]))["explain"]
    assert [(one["reason"], one["log_probability"]) for one in explain["items"]] == [("popular", None)] * 2
    assert explain["filter"]["category"] == ["toys"]
    assert explain["filter"]["price_min"] == 5
    assert (explain["entry_engine"], explain["live_engine"], explain["removed_items"]) == (None, None, [])


async def test_cap_and_allow_list_are_named_among_the_rules(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7])
    explain = (await full(api, n=2, only=["item-9", "item-7"], max_per_prefix=1, strict=True))["explain"]
    assert explain["removed_items"][0] == {"item_id": "item-8", "rank": 2, "rules": ["only"]}
    assert (explain["filter"]["only"], explain["filter"]["max_per_prefix"]) == (2, 1)


async def test_removed_items_are_bounded(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [number % 50 for number in range(250)])
    explain = (await full(api, n=1, only=["item-49"]))["explain"]
    assert len(explain["removed_items"]) == 100
    assert explain["removed"]["only"] == 245


@pytest.mark.parametrize(("value", "status"), [("true", 200), ("false", 200), ("full", 200), ("all", 422)])
async def test_explain_takes_three_values(api: RunningApp, value: str, status: int) -> None:
    answer = await api.client.get(f"/recommend/ann?explain={value}")
    assert answer.status_code == status
    if status == 200:
        said = answer.json().get("explain")
        assert (said is not None, "removed_items" in (said or {})) == (value != "false", value == "full")
    posted = await api.client.post("/recommend", json={"user_id": "ann", "explain": "full"})
    assert "removed_items" in posted.json()["explain"]


async def why(client: httpx.AsyncClient, item: int, **more: Any) -> dict[str, Any]:
    answer = await client.post("/explain", json={"user_id": "ann", "item_id": f"item-{item}", "n": 3, **more})
    answer.raise_for_status()
    TypeAdapter(WhyNot).validate_python(answer.json())
    body: dict[str, Any] = answer.json()
    return body


async def test_item_that_is_outranked(api: RunningApp, cache: Cache, decoder: PlainDecoder, bundle: Bundle) -> None:
    cache.put_entry("ann", [9, 8, 7, 6])
    cache.put_history("ann", [20])
    said = await why(api.client, 6)
    assert (said["verdict"], said["removed_by"], said["rank"]) == ("outranked", [], None)
    assert (said["cached_rank"], said["cached_items"]) == (4, 4)
    assert said["score"] == pytest.approx(decoder.score(6, [20]))
    assert said["last_score"] == pytest.approx(decoder.score(7, [20]))
    assert said["score_unavailable"] is None
    codes = bundle.item_codes.codes_NL.tolist()
    shared = max(
        next((level for level in range(4) if codes[other][level] != codes[6][level]), 4) for other in (9, 8, 7)
    )
    assert (said["shared_codes"], said["outranked_at_level"]) == (shared, shared + 1)
    u, v, x, y = codes[6]
    assert said["code"] == f"<u_{u}><v_{v}><x_{x}><y_{y}>"


async def test_item_that_is_recommended(api: RunningApp, cache: Cache) -> None:
    cache.put_entry("ann", [9, 8, 7, 6])
    cache.put_history("ann", [20])
    said = await why(api.client, 8)
    assert (said["verdict"], said["rank"], said["cached_rank"], said["source"]) == ("recommended", 2, 2, "cache")
    assert said["outranked_at_level"] is None


@pytest.mark.parametrize(
    ("item", "more", "rules"),
    [
        (20, {}, ["seen"]),
        (8, {"exclude": ["item-8"]}, ["excluded"]),
        (OUT_OF_STOCK[0], {}, ["out_of_stock"]),
        (8, {"price_min": 1000}, ["price"]),
        (20, {"exclude": ["item-20"], "category": ["no such"]}, ["seen", "excluded", "category"]),
    ],
)
async def test_item_that_rules_remove(
    api: RunningApp, cache: Cache, item: int, more: dict[str, Any], rules: list[str]
) -> None:
    cache.put_entry("ann", [9, 8, 7, 6])
    cache.put_history("ann", [20])
    said = await why(api.client, item, **more)
    assert (said["verdict"], said["removed_by"]) == ("removed", rules)
    assert said["score"] is not None


async def test_without_a_history_or_a_decoder_there_is_no_score(
    api: RunningApp, cache: Cache, decoder: PlainDecoder
) -> None:
    assert (await why(api.client, 8))["score_unavailable"] == "no_history"
    cache.put_history("ann", [20])
    decoder.status = 500
    said = await why(api.client, 8)
    assert (said["score"], said["last_score"], said["score_unavailable"]) == (None, None, "failed")


async def test_what_cannot_be_explained_is_a_problem(api: RunningApp, settings: Settings, stored: redis.Redis) -> None:
    asked = {"user_id": "ann", "item_id": "nothing"}
    assert_problem(await api.client.post("/explain", json=asked), 404, "item-not-found")
    assert_problem(await api.client.post("/explain", json={"user_id": "ann"}), 422, "invalid-request")
    assert_problem(await api.client.post("/explain", json=asked | {"m": 1}), 422, "invalid-request")
    embedded_redis.stop(settings.home)
    asked["item_id"] = "item-1"
    assert_problem(await api.client.post("/explain", json=asked), 503, "storage-unavailable")
    with_keys = Settings(**settings.model_dump() | {"api_keys": "write:" + "k" * 16})
    async with running(with_keys) as app:
        refused = await app.client.post("/explain", json=asked, headers={"X-API-Key": "k" * 16})
    assert_problem(refused, 403, "scope-missing")
