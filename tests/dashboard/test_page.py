"""For everybody: on a phone, by keyboard, in the dark; and nothing from elsewhere."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.dashboard.conftest import NASTY, Place, ready, try_user, watched

CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, server: str, scheme: str) -> None:
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900}) as context:
        page = watched(context).open(server)
        ready(page)
        try_user(page, "user-3")
        page.click("#explain summary")
        page.wait_for_selector("#traffic-chart svg text")
        page.wait_for_selector("#models-table button")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        found = page.evaluate(CONTRAST)
        assert len(found) > 150
        assert [what for ratio, what in found if ratio < 4.5] == []
        page.click("#rollback")
        assert [what for ratio, what in page.evaluate(CONTRAST) if ratio < 4.5] == []
        page.click("#confirm button[value=no]")
        # A check that cannot fail would prove nothing.
        page.evaluate("document.querySelector('#served').style.color = getComputedStyle(document.body).backgroundColor")
        assert [what for ratio, what in page.evaluate(CONTRAST) if ratio < 4.5] != []


def test_theme_is_chosen_and_kept(page: Page) -> None:
    assert page.inner_text("#theme-button") == "Theme: auto"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme-button")
    page.click("#theme-button")
    assert page.inner_text("#theme-button") == "Theme: dark"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    ready(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, server: str, place: Place, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 780}) as context:
        page = watched(context).open(server)
        ready(page)
        for user in ("user-3", NASTY):
            try_user(page, user)
            page.click("#explain summary")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            wide = page.evaluate(
                "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .sr') &&"
                " e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + e.className)"
            )
            assert wide == []


def test_try_it_by_keyboard_alone(page: Page) -> None:
    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.className"))

    def outlined() -> bool:
        return bool(page.evaluate("getComputedStyle(document.activeElement).outlineStyle !== 'none'"))

    page.keyboard.press("Tab")
    assert focused() == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    assert focused() == "main"
    for _ in range(40):
        page.keyboard.press("Tab")
        assert outlined(), focused()
        if focused() == "try-user":
            break
    assert focused() == "try-user"
    page.keyboard.type("user-5")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer-items .tile")
    for _ in range(30):
        page.keyboard.press("Tab")
        assert outlined(), focused()
        if page.evaluate("document.activeElement.closest('#answer-items') !== null"):
            break
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == f"Record a view of {page.inner_text('#answer-items > li:first-child .title')}"
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer-items .moved")
    assert page.evaluate("document.activeElement.closest('#answer-items') !== null")


def test_dialog_by_keyboard(page: Page) -> None:
    page.wait_for_selector("#models-table button")
    page.focus("#rollback")
    page.keyboard.press("Enter")
    assert page.is_visible("#confirm")
    page.keyboard.press("Escape")
    assert not page.is_visible("#confirm")
    assert page.evaluate("document.activeElement.id") == "rollback"


def test_controls_have_names_and_tables_have_heads(page: Page) -> None:
    try_user(page, "user-3")
    page.wait_for_selector("#models-table tbody tr")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, button')].filter(e => !(e.labels?.length || e.getAttribute('aria-label')"
        " || e.textContent.trim())).map(e => e.outerHTML)"
    )
    # The dialog's answer has its words when it opens.
    assert [one for one in unnamed if "confirm-yes" not in one] == []
    assert page.evaluate(
        "[...document.querySelectorAll('table')].every(t => t.tHead && t.querySelector('th[scope=col]'))"
    )
    assert page.evaluate("[...document.querySelectorAll('[onclick], [style]')].filter(e => e.onclick).length") == 0
    assert page.locator("[aria-live=polite]").count() >= 3
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("h2").count() >= 4
    assert page.get_attribute("html", "lang") == "en"


def test_reduced_motion(browser: Browser, server: str) -> None:
    moving = """() => [document.documentElement, ...document.querySelectorAll('body *')].filter((node) => {
      const style = getComputedStyle(node);
      return style.transitionDuration.split(', ').some((lasts) => lasts !== '0s')
        || style.animationName !== 'none' || style.scrollBehavior === 'smooth';
    }).length"""
    for wish, still in (("reduce", True), ("no-preference", False)):
        with browser.new_context(reduced_motion=wish) as context:  # type: ignore[arg-type]
            page = watched(context).open(server)
            assert (page.evaluate(moving) == 0) == still


def test_the_policy_lets_the_page_work_and_nothing_inline(browser: Browser, server: str) -> None:
    for path in ("/", "/dashboard/main.js", "/dashboard/style.css", "/dashboard/icon.svg"):
        policy = httpx.get(server + path).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
    assert httpx.get(f"{server}/dashboard/../main.py").status_code == 404
    assert httpx.get(f"{server}/dashboard/nothing.js").status_code == 404
    with browser.new_context() as context:
        found = watched(context)
        page = found.open(server)
        ready(page)
        assert found.errors == []
        page.evaluate(
            """() => {
              const script = document.createElement('script');
              script.textContent = "document.title = 'owned'";
              document.body.append(script);
            }"""
        )
        assert page.title() == "Tessera"
        assert "Content Security Policy" in found.errors[0]
