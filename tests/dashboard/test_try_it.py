"""A user's history and recommendations side by side, and what an event changes."""

from urllib.parse import quote

import httpx
from playwright.sync_api import Browser, Page

from model_store.cache_keys import Keys
from tests.dashboard.conftest import ITEMS, NASTY, SECOND, Place, ready, try_user, watched


def test_history_and_items_side_by_side_with_titles_and_four_tiles(page: Page, server: str, place: Place) -> None:
    place.fill("reader", [3, 23], list(range(30, 50)))
    try_user(page, "reader")
    answer = httpx.get(f"{server}/recommend/reader").json()
    shown = page.locator("#answer-items > li")
    assert shown.count() == 10
    for at, item in enumerate(answer["items"]):
        row = shown.nth(at)
        assert row.locator(".title").inner_text() == item["item_id"].replace("item-", "Title ")
        tiles = row.locator(".tile").all_inner_texts()
        assert "".join(f"<{tile.replace(' ', '_')}>" for tile in tiles) == item["code"]
        assert "probability" in row.locator(".why").inner_text()
    history = [row.inner_text() for row in page.locator("#history-items .title").all()]
    assert history == ["Title 23", "Title 3"]
    left, right = page.locator("#history-items").bounding_box(), page.locator("#answer-items").bounding_box()
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] < right["x"]
    line = page.inner_text("#try-status")
    assert "Cache" in line
    assert f"by {SECOND}, decoded 2 h ago" in line
    page.click("#explain summary")
    assert "20 items" in page.inner_text("#explain-body")


def test_same_first_code_same_colour(page: Page) -> None:
    colours: dict[str, set[str]] = {}
    for user in ("user-3", "user-11"):
        try_user(page, user)
        found = page.evaluate(
            "[...document.querySelectorAll('.tile:first-child')]"
            ".map(t => [t.textContent, getComputedStyle(t).backgroundColor])"
        )
        for code, colour in found:
            colours.setdefault(code, set()).add(colour)
    assert all(len(seen) == 1 for seen in colours.values())
    assert len(set.union(*colours.values())) > 3


def test_an_item_says_what_of_the_history_it_is_like(page: Page, place: Place) -> None:
    codes = place.bundles[SECOND].item_codes.codes_NL
    pairs = ((a, b) for a in range(ITEMS - 1) for b in range(a) if codes[a][0] == codes[b][0])
    liked, alike = next(pairs)
    place.fill("likes", [liked], [alike, *(n for n in range(5) if n not in (liked, alike))])
    try_user(page, "likes")
    said = page.inner_text("#answer-items > li:first-child .why")
    assert f"shares u {codes[liked][0]}" in said
    assert said.endswith(f"with Title {liked}")


def test_recording_a_view_changes_the_list(page: Page, place: Place) -> None:
    place.fill("viewer", [1], list(range(30, 50)))
    try_user(page, "viewer")
    viewed = page.inner_text("#answer-items > li:nth-child(2) .title")
    page.click("#answer-items > li:nth-child(2) button")
    page.wait_for_selector("#history-items > li:nth-child(2)")
    assert page.inner_text("#history-items > li:first-child .title") == viewed
    assert viewed not in page.locator("#answer-items .title").all_inner_texts()
    assert page.inner_text("#answer-items > li:nth-child(2) .moved") == "↑ 1"
    assert page.inner_text("#answer-items > li:last-child .moved") == "new"
    assert place.redis.llen(Keys().history("viewer")) == 2


def test_a_category_and_a_user_nobody_knows(page: Page) -> None:
    page.fill("#try-category", "Kitchen")
    try_user(page, "nobody")
    assert page.inner_text("#try-status").strip().startswith("Popular")
    assert all("Kitchen" in facts for facts in page.locator("#answer-items .facts").all_inner_texts())
    assert "popular" in page.inner_text("#answer-items > li:first-child .why")
    assert "Nothing is recorded" in page.inner_text("#history-items")
    page.fill("#try-category", "Nowhere")
    page.click("#try-form button[type=submit]")
    page.wait_for_selector("#answer-items .empty")


def test_what_is_wrong_is_said(browser: Browser, server: str) -> None:
    with browser.new_context() as context:
        page = watched(context).open(server)
        ready(page)
        try_user(page, "user-1")
        # Longer than an id may be; the field itself would not take it.
        page.evaluate("document.querySelector('#try-category').removeAttribute('maxlength')")
        page.fill("#try-category", "c" * 300)
        page.click("#try-form button[type=submit]")
        page.wait_for_selector("#try-status[data-kind=bad]")
        assert "category" in page.inner_text("#try-status")
        assert not page.is_visible("#answer-items")


def test_ids_and_titles_are_only_text(page: Page, server: str) -> None:
    try_user(page, NASTY)
    httpx.post(f"{server}/events", json=[{"user_id": NASTY, "item_id": NASTY}]).raise_for_status()
    try_user(page, NASTY)
    assert page.inner_text("#history-items > li:first-child .title") == NASTY
    assert page.inner_text("#history-items > li:first-child code") == NASTY
    assert page.input_value("#try-user") == NASTY
    assert page.title() == "Tessera"
    assert page.locator("main img, main script").count() == 0
    asked = httpx.get(f"{server}/users/{quote(NASTY, safe='')}/history").json()
    assert asked["user_id"] == NASTY
