"""What the page shows of a running service."""

import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.conftest import SECOND, USERS, Place, ready, watched


def test_every_panel_fills(page: Page) -> None:
    page.wait_for_selector("#traffic-chart svg rect.fill-cache")
    assert page.inner_text("#served") == SECOND
    for name in ("rate", "cache", "fresh", "p99", "coverage", "memory"):
        assert re.match(r"[\d.,]+", page.inner_text(f"#kpi-{name}")), name
    assert page.locator("#latency-chart svg .stroke-p99, #latency-chart svg .fill-p99").count()
    assert "p99" in str(page.get_attribute("#latency-chart svg", "aria-label"))
    rows = page.locator("#sources-table tbody tr")
    assert rows.nth(0).inner_text().startswith("Cache")
    assert "Popular" in page.inner_text("#sources-table")
    page.wait_for_selector("#cache-body .ages")
    found = re.search(r"(\d+) lists, (\d+) users with a history", page.inner_text("#cache-body"))
    assert found is not None
    assert min(map(int, found.groups())) > USERS
    assert page.locator("#cache-body .ages .track").count() == 6
    words = page.inner_text("#dependencies")
    assert "Redis\nok" in words
    assert "Decoder\nnone" in words
    assert page.locator("#models-table tbody tr").count() == 2
    assert "served" in page.inner_text("#models-table tr[data-served=true]")
    assert not page.is_visible("#banner")
    page.click("#traffic-table >> xpath=../summary")
    assert page.locator("#traffic-table tbody tr").count() >= 1


def test_traffic_is_what_was_answered(page: Page, server: str) -> None:
    page.wait_for_selector("#traffic-chart svg rect.fill-cache")

    def counted() -> int:
        answers = httpx.get(f"{server}/overview").json()["traffic"]["answers"]
        return sum(map(sum, answers.values()))

    expect(page.locator("#kpi-rate-note")).to_contain_text(f"{counted()} in")


def test_nothing_to_show_yet_says_what_to_do(browser: Browser, place: Place) -> None:
    with place.served("--jobs", "none", TESSERA_NAMESPACE="empty") as base, browser.new_context() as context:
        found = watched(context)
        page = found.open(base)
        ready(page)
        assert "GET /recommend/USER" in page.inner_text("#traffic-chart")
        expect(page.locator("#cache-body")).to_contain_text("tessera refresh --data")
        assert "tessera worker" in page.inner_text("#jobs")
        page.click("#refresh-start")
        page.wait_for_selector("#refresh-status[data-kind=bad]")
        assert "tessera worker" in page.inner_text("#refresh-status")


def test_outages_are_said(browser: Browser, place: Place) -> None:
    with browser.new_context() as context:
        found = watched(context)
        with place.served("--jobs", "none", TESSERA_REDIS_URL="unix:///nowhere.sock") as base:
            page = found.open(base)
            page.wait_for_selector("#state[data-state=degraded]")
            assert "redis" in page.inner_text("#banner")
            assert "Redis does not answer" in page.inner_text("#traffic-chart")
            assert found.errors == []
        page.wait_for_selector("#state[data-state=away]")
        assert "API unreachable" in page.inner_text("#banner")


def test_the_page_rests_while_it_is_hidden(browser: Browser, server: str) -> None:
    with browser.new_context() as context:
        found = watched(context)
        page = found.open(server)
        ready(page)
        hide = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        hide += " document.dispatchEvent(new Event('visibilitychange')); }"
        page.evaluate(hide, True)
        page.wait_for_timeout(500)
        before = len(found.requests)
        page.wait_for_timeout(6000)
        assert len(found.requests) == before
        page.evaluate(hide, False)
        page.wait_for_timeout(1000)
        assert len(found.requests) > before


@pytest.mark.parametrize("key", ["reader-" + "r" * 16, "admin-" + "a" * 16])
def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Browser, place: Place, key: str) -> None:
    keys = f"read:reader-{'r' * 16},admin:admin-{'a' * 16}"
    variables = {"TESSERA_API_KEYS": keys, "TESSERA_NAMESPACE": "keys"}
    with place.served("--jobs", "none", **variables) as base, browser.new_context() as context:
        found = watched(context)
        page = found.open(base)
        page.wait_for_selector("#key-panel", state="visible")
        page.fill("#key-input", "wrong-" + "w" * 16)
        page.press("#key-input", "Enter")
        expect(page.locator("#banner")).to_contain_text("not known")
        page.fill("#key-input", key)
        page.press("#key-input", "Enter")
        ready(page)
        assert not page.is_visible("#key-panel")
        assert page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href").find(key) == -1
        page.reload()
        ready(page)
        page.click("#refresh-start")
        page.wait_for_selector("#refresh-status[data-kind=bad]")
        said = page.inner_text("#refresh-status")
        assert ("scope" in said) == key.startswith("reader")
        assert ("tessera worker" in said) == key.startswith("admin")
        other = context.new_page()
        other.goto(base)
        other.wait_for_selector("#key-panel", state="visible")
