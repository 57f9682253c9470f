"""What the page changes: the served version, and the lists."""

import httpx
from playwright.sync_api import Browser, Page, expect

from model_store.cache_keys import Keys
from tests.dashboard.conftest import FIRST, SECOND, Place, try_user, watched


def test_activate_and_roll_back_change_the_next_answer(page: Page, server: str, place: Place) -> None:
    place.redis.hdel(Keys().caches, FIRST)
    page.wait_for_selector("#models-table tbody tr button")
    expect(page.locator("#models-table")).to_contain_text("none")
    page.click(f"#models-table button[data-key='{FIRST}']")
    assert page.inner_text("#confirm-title") == f"Serve {FIRST}?"
    assert "No list" in page.inner_text("#confirm-warning")
    page.click("#confirm button[value=no]")
    assert httpx.get(f"{server}/models").json()["served"] == SECOND
    page.click(f"#models-table button[data-key='{FIRST}']")
    page.click("#confirm-yes")
    page.wait_for_selector("#models-status[data-kind=warn]")
    assert "is cached" in page.inner_text("#models-status")
    expect(page.locator("#served")).to_have_text(FIRST)
    try_user(page, "user-1")
    assert f"by {FIRST}" in page.inner_text("#try-status")
    page.click("#rollback")
    assert "Roll back" in page.inner_text("#confirm-title")
    page.click("#confirm-yes")
    expect(page.locator("#served")).to_have_text(SECOND)
    page.click("#try-form button[type=submit]")
    expect(page.locator("#try-status")).to_contain_text(f"by {SECOND}")
    assert "cached list" in page.inner_text("#models-status")


def test_a_corrupt_version_is_refused_with_the_reason(browser: Browser, server: str, place: Place) -> None:
    damaged = place.bundles[FIRST].path / "popularity.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"x")
    try:
        with browser.new_context() as context:
            page = watched(context).open(server)
            page.click(f"#models-table button[data-key='{FIRST}']")
            page.click("#confirm-yes")
            page.wait_for_selector("#models-status[data-kind=bad]")
            assert "popularity.npy: 1 bytes" in page.inner_text("#models-status")
            assert page.inner_text("#served") == SECOND
    finally:
        damaged.write_bytes(whole)


def test_refresh_is_started_watched_and_cancelled(page: Page, place: Place) -> None:
    expect(page.locator("#worker-note")).to_have_text("worker ready")
    page.check("#refresh-form input[value=full]")
    assert not page.is_visible("#budget-field")
    page.click("#refresh-start")
    row = page.locator("#jobs > li").first
    row.locator("progress").wait_for(timeout=30_000)
    expect(row.locator(".chip")).to_have_text("done", timeout=90_000)
    users = len(list(place.redis.scan_iter(Keys().histories())))
    assert f"{users} of {users} users, in" in row.inner_text()
    page.check("#refresh-form input[value=stale]")
    page.fill("#budget-users", "5")
    page.click("#refresh-start")
    expect(row).to_contain_text("5 users at most")
    row.locator("button").click()
    expect(row.locator(".chip")).to_have_text("cancelled", timeout=30_000)
