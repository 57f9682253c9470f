"""The route without FastAPI's machinery takes what FastAPI takes, and refuses nothing itself."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote

import orjson
import pytest
from fastapi import FastAPI, Query, Request
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from pydantic import SecretStr

from app import problems
from app.direct_route import read_parameters
from app.recommendation import Wanted
from app.scenarios import Scenario, Scenarios
from app.schemas import RecommendParameters
from app.settings import Settings
from tests.app.conftest import Cache, RunningApp, ids, running

pytestmark = pytest.mark.anyio

NAMES = (*RecommendParameters.model_fields, "unknown", "")
VALUES = (
    "",
    "0",
    "1",
    "7",
    "-1",
    "101",
    "1e2",
    "1.5",
    " 3",
    "٣",
    "true",
    "False",
    "nan",
    "cache",
    "item-1",
    "a,b",
    "\x01",
    "é",
    "home",
    "cheap",
)

SCENARIOS = Scenarios(
    {
        "home": Scenario({"n": 7, "exclude": ("item-1",), "in_stock": False, "q": "tea"}, frozenset({"strict", "n"})),
        "cheap": Scenario({"price_max": 5.0, "only": ("item-1",)}, frozenset({"in_stock"})),
    }
)

pairs = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(max_size=5).filter(lambda t: t.isprintable())),
    max_size=5,
)


@pytest.fixture(scope="module")
def fastapi_reads() -> Iterator[TestClient]:
    app = FastAPI()

    problems.install(app)

    @app.get("/")
    async def read(asked: Annotated[RecommendParameters, Query()], request: Request) -> str:
        # As `app.routes.recommendations` does.
        return repr(SCENARIOS.applied(asked, request.query_params.keys()).wanted())

    with TestClient(app) as client:
        yield client


def assert_read_alike(fastapi_reads: TestClient, query: str) -> None:
    said = fastapi_reads.get(f"/?{query}")
    wanted = read_parameters(query.encode(), SCENARIOS)
    if wanted is None:
        # Whether a type is one that the server takes is asked in the route.
        assert said.status_code == 422 or "write_back_type" in query
    else:
        assert said.json() == repr(wanted)


@given(pairs=pairs)
@hypothesis_settings(max_examples=300, deadline=None)
def test_parameters_are_read_as_fastapi_reads_them(fastapi_reads: TestClient, pairs: list[tuple[str, str]]) -> None:
    assert_read_alike(fastapi_reads, "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs))


@given(pairs=pairs, scenario=st.sampled_from(["home", "cheap", "none"]))
@hypothesis_settings(max_examples=300, deadline=None)
def test_scenarios_are_applied_as_the_route_applies_them(
    fastapi_reads: TestClient, pairs: list[tuple[str, str]], scenario: str
) -> None:
    asked = [*pairs, ("scenario", scenario)]
    assert_read_alike(fastapi_reads, "&".join(f"{quote(name)}={quote(value)}" for name, value in asked))


@pytest.mark.parametrize(
    "query",
    ["", "n", "n=", "n=3&n=4", "category=a&category=b", "category", "only", "only=", "exclude=%FF", "n=3;offset=2",
     "&&", "price_min=9&price_max=1", "q=+tea+", "n=%33", "%6e=3", "exclude=" + "x" * 300, "in_stock=maybe",
     "n=3&unknown", "write_back_type=read", "write_back_delay_s=5"],
)  # fmt: skip
def test_odd_parameters_are_read_as_fastapi_reads_them(fastapi_reads: TestClient, query: str) -> None:
    assert_read_alike(fastapi_reads, query)


async def test_a_get_and_a_post_say_the_same(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [1, 2, 3])
    cache.put_entry("ann", list(range(30)))
    for asked in ({}, {"n": 3, "offset": 2}, {"n": 20}, {"n": 5, "exclude": ["item-5"], "in_stock": False}):
        got = (await api.client.get("/recommend/ann", params=asked)).json()
        posted = (await api.client.post("/recommend", json={"user_id": "ann", **asked})).json()
        for answer in (got, posted):
            assert answer.pop("recommendation_id")
            assert answer.pop("age_s") >= 0
        assert got == posted
        assert got["source"] == "cache"


async def test_either_way_counts_the_same(api: RunningApp, cache: Cache) -> None:
    cache.put_history("ann", [1])
    cache.put_entry("ann", list(range(30)))

    async def counted(request: str) -> dict[str, float]:
        before = {sample.name + str(sample.labels): sample.value for sample in samples()}
        answer = await (
            api.client.get("/recommend/ann?n=4&offset=1")
            if request == "GET"
            else api.client.post("/recommend", json={"user_id": "ann", "n": 4, "offset": 1})
        )
        assert answer.json()["source"] == "cache"
        changed = {key: sample.value for sample in samples() if (key := sample.name + str(sample.labels))}
        return {
            key: value - before.get(key, 0)
            for key, value in changed.items()
            if value != before.get(key, 0) and not key.startswith("tessera_request") and "_sum" not in key
            and "_bucket" not in key and "_created" not in key
        }  # fmt: skip

    def samples() -> list[Sample]:
        exposed = api.services.telemetry.exposition().decode()
        return [sample for metric in text_string_to_metric_families(exposed) for sample in metric.samples]

    first = await counted("GET")
    assert first == await counted("POST")
    assert first["tessera_items_total{'reason': 'cache'}"] == 5
    assert first["tessera_personal_answers_total{'fresh': 'yes'}"] == 1


async def test_either_way_writes_back_and_remembers_the_answer_once(api: RunningApp, cache: Cache) -> None:
    services = api.services
    for user, wanted in (("ann", Wanted(n=3)), ("bob", Wanted(n=3, explain=True))):
        cache.put_entry(user, list(range(30)))
        _, body = await services.recommender.answer(user, replace(wanted, write_back_after_s=0.0))
        said = orjson.loads(body)
        shown = [item["item_id"] for item in said["items"]]
        assert ("explain" in said) == (user == "bob"), "the long way"
        await services.write_back.flush()
        await services.attribution.flush()
        assert [item.decode() for item in cache.redis.zrange(cache.keys.withheld(user), 0, -1)] == sorted(shown)
        again = (await api.client.get(f"/recommend/{user}?n=10")).json()
        assert again["source"] == "cache"
        assert set(shown).isdisjoint(item["item_id"] for item in again["items"])
        events = [{"user_id": user, "item_id": shown[0], "recommendation_id": said["recommendation_id"]}]
        assert (await api.client.post("/events", json=events)).json()["accepted"] == 1
    text = (await api.client.get("/metrics")).text
    assert 'tessera_events_total{attributed="yes",outcome="accepted"} 2.0' in text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/recommend/", 422), ("/recommend/" + "x" * 257, 422), ("/recommend/a%00b", 422), ("/recommend/ann?n=0", 422),
     ("/recommend/ann?what=1", 422), ("/recommend/a/b", 200), ("/recommend/%C3%A9", 200), ("/recommend/a%2Fb", 200)],
)  # fmt: skip
async def test_what_is_not_valid_is_refused_by_the_route_itself(api: RunningApp, path: str, status: int) -> None:
    answer = await api.client.get(path)
    assert answer.status_code == status
    if status == 422:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_other_methods_are_refused(api: RunningApp) -> None:
    assert (await api.client.put("/recommend/ann")).status_code == 405
    assert (await api.client.head("/recommend/ann")).status_code == 405


async def test_keys_are_asked_for(settings: Settings, cache: Cache) -> None:
    keys = SecretStr("write:only-writes-0123456789,read:only-reads-0123456789")
    async with running(settings.model_copy(update={"api_keys": keys}), ("10.0.0.9", 1)) as api:
        cache.put_entry("ann", [9, 8, 7])
        for key, status in ((None, 401), ("", 401), ("wrong", 401), ("only-writes-0123456789", 403)):
            answer = await api.client.get("/recommend/ann?n=3", headers={} if key is None else {"X-API-Key": key})
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
        answer = await api.client.get("/recommend/ann?n=3", headers={"X-API-Key": "only-reads-0123456789"})
        assert ids(answer) == ["item-9", "item-8", "item-7"]
