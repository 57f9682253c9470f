"""A scenario's defaults hold wherever the request says nothing, whichever way it is answered."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.main import create_app
from app.scenarios import ScenariosInvalid, read_scenarios
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running

pytestmark = pytest.mark.anyio

SCENARIOS = """
[home]
n = 4
exclude = ["item-2"]
fixed = ["in_stock"]

[cheap]
price_max = 5.0
strict = true

[feed]
n = 3
write_back_type = "read"
"""


@pytest.fixture
def with_scenarios(settings: Settings, tmp_path: Path) -> Settings:
    path = tmp_path / "scenarios.toml"
    path.write_text(SCENARIOS)
    return settings.model_copy(update={"scenarios_file": path})


@pytest.fixture
async def api(with_scenarios: Settings, cache: Cache) -> AsyncIterator[RunningApp]:
    cache.put_history("ann", [1])
    cache.put_entry("ann", list(range(30)))
    async with running(with_scenarios) as app:
        yield app


@pytest.mark.parametrize(
    ("asked", "same_as"),
    [
        ({"scenario": "home"}, {"n": 4, "exclude": ["item-2"]}),
        ({"scenario": "home", "n": 10}, {"n": 10, "exclude": ["item-2"]}),
        ({"scenario": "home", "exclude": ["item-5"]}, {"n": 4, "exclude": ["item-5"]}),
        ({"scenario": "home", "in_stock": True}, {"n": 4, "exclude": ["item-2"]}),
        ({"scenario": "cheap", "n": 3}, {"price_max": 5.0, "strict": True, "n": 3}),
    ],
)
async def test_a_get_a_post_and_a_batch_take_the_defaults(
    api: RunningApp, asked: dict[str, object], same_as: dict[str, object]
) -> None:
    said = ids(await api.client.post("/recommend", json={"user_id": "ann", **same_as}))
    assert said
    assert ids(await api.client.post("/recommend", json={"user_id": "ann", **asked})) == said
    batch = (await api.client.post("/recommend/batch", json={"user_ids": ["ann"], **asked})).json()
    assert [item["item_id"] for item in batch["answers"][0]["items"]] == said
    assert ids(await api.client.get("/recommend/ann", params=asked)) == said


async def test_the_explanation_and_the_metrics_name_it(api: RunningApp) -> None:
    explained = (await api.client.get("/recommend/ann?scenario=home&explain=true")).json()
    assert explained["explain"]["scenario"] == "home"
    assert (await api.client.get("/recommend/ann?explain=true")).json()["explain"]["scenario"] is None
    await api.client.get("/recommend/ann?scenario=home")
    assert 'tessera_scenario_answers_total{scenario="home"} 2.0' in (await api.client.get("/metrics")).text


@pytest.mark.parametrize("way", ["GET", "POST", "batch"])
async def test_an_unknown_one_is_refused_with_the_names_there_are(api: RunningApp, way: str) -> None:
    answer = await _ask(api, way, {"scenario": "cart"})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tessera:problem:unknown-scenario")
    assert "home, cheap, feed" in answer.json()["detail"]


@pytest.mark.parametrize("way", ["GET", "POST", "batch"])
async def test_what_is_fixed_may_not_be_changed(api: RunningApp, way: str) -> None:
    answer = await _ask(api, way, {"scenario": "home", "in_stock": False})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tessera:problem:fixed-by-scenario")
    assert "in_stock" in answer.json()["detail"]


@pytest.mark.parametrize("way", ["GET", "POST", "batch"])
async def test_what_does_not_go_with_the_defaults_is_refused(api: RunningApp, way: str) -> None:
    answer = await _ask(api, way, {"scenario": "cheap", "price_min": 7.0})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:tessera:problem:invalid-request")
    assert answer.json()["errors"][0]["location"] == ["scenario", "cheap"]


async def test_without_a_file_there_is_none(settings: Settings, cache: Cache) -> None:
    async with running(settings) as api:
        answer = await api.client.get("/recommend/ann?scenario=home")
    assert answer.status_code == 422
    assert "none" in answer.json()["detail"]


@pytest.mark.parametrize("way", ["GET", "POST", "batch"])
async def test_what_is_shown_counts_as_read_where_the_scenario_says_so(api: RunningApp, cache: Cache, way: str) -> None:
    assert (await _ask(api, way, {"scenario": "feed"})).status_code == 200
    await api.services.write_back.flush()
    assert cache.redis.zcard(cache.keys.withheld("ann")) == 3


async def test_a_session_takes_a_scenario_that_writes_back(api: RunningApp) -> None:
    answer = await api.client.post("/recommend", json={"history": ["item-1"], "scenario": "feed"})
    assert (answer.status_code, len(ids(answer))) == (200, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[home]\nn = 0", "[home] n: Input should be greater than or equal to 1"),
        ("[home]\nsize = 3", "[home] size: no parameter of /recommend"),
        ("[home]\nfixed = ['size']", "[home] fixed: size is no parameter"),
        ("[home]\nfixed = 'n'", "[home] fixed: expected a list"),
        ("[home]\nprice_min = 3\nprice_max = 1", "[home]: Value error, price_min is above price_max"),
        ("[home]\nwrite_back_type = 'view'", "[home] write_back_type: view is none of TESSERA_READ_TYPES"),
        ("['a b']\nn = 3", "[a b]: a name has"),
        ("n = 3", "[n]: expected a table"),
        ("[home", "not TOML"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_told_at_the_start(settings: Settings, tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "scenarios.toml"
    if text is not None:
        path.write_text(text)
    settings = settings.model_copy(update={"scenarios_file": path})
    for start in (read_scenarios, create_app):
        with pytest.raises(ScenariosInvalid) as raised:
            start(settings)
        assert str(path) in str(raised.value)
        assert said in str(raised.value)


async def _ask(api: RunningApp, way: str, asked: dict[str, object]):
    if way == "GET":
        return await api.client.get("/recommend/ann", params=asked)
    whom = {"user_id": "ann"} if way == "POST" else {"user_ids": ["ann"]}
    return await api.client.post("/recommend" if way == "POST" else "/recommend/batch", json={**whom, **asked})
