"""The page for everybody: by keyboard alone, with assistive technology, on a phone, in the dark."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

VIEWS = ("chat", "choose", "taste", "compare", "operator")
WIDTHS = (390, 768, 1440)
# Text that is wider than its box without being made to scroll or to end in dots; boxes outside the window.
CUT_OFF = """() => [...document.querySelectorAll("body *")].filter((e) => {
    if (!e.checkVisibility() || e.closest(".visually-hidden, .skip, svg")) return false;
    const style = getComputedStyle(e);
    const box = e.getBoundingClientRect();
    if (box.width === 0 || e.closest(".markdown pre, .table-scroll")) return false;
    const isOutside = box.right > innerWidth + 1 || box.left < -1;
    const hides = style.overflowX === "hidden" && style.textOverflow !== "ellipsis";
    return isOutside || (hides && e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1);
}).map((e) => `${e.tagName}.${e.className}`)"""


@pytest.fixture
def known(visitor: Visitor) -> Visitor:
    """Somebody of whom a little is known, with a long name."""
    visitor.open()
    visitor.become("Wilhelmina Featherstonehaugh")
    answer = visitor.ask("A question that is long enough to need two lines on a phone, and perhaps on others")
    answer.get_by_role("button", name="Good answer").click()
    expect(answer.locator(".reason")).to_be_visible()
    answer = visitor.ask("another")
    answer.get_by_role("button", name="Why").click()
    return visitor


def settle(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    expect(page.locator(".waiting")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_anybodys_way(known: Visitor, scheme: str) -> None:
    page = known.page
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
    assert known.violations() == []
    for view in VIEWS[1:]:
        known.go(view.capitalize())
        settle(page)
        if view == "taste":
            page.locator(".attribute summary").first.click()
        if view == "compare":
            page.get_by_label("The question for all of them").fill("hi")
            page.keyboard.press("Enter")
            expect(page.locator(".column .byline").last).not_to_be_empty()
        assert known.violations() == [], view
    for opener, title in (("Settings", "Settings"), ("Asking as", "Who is asking?")):
        page.get_by_role("button", name=opener).click()
        expect(page.get_by_role("dialog", name=title)).to_be_visible()
        assert known.violations() == [], title
        page.keyboard.press("Escape")


def test_nothing_is_cut_off_or_hangs_out_at_any_width(known: Visitor) -> None:
    page = known.page
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        for view in VIEWS:
            known.go(view.capitalize())
            settle(page)
            if view == "taste":
                page.locator(".attribute summary").first.click()
            assert page.evaluate(CUT_OFF) == [], f"{view} at {width}"
            assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), f"{view} at {width}"
        known.go("Chat")
        page.get_by_role("button", name="Options").click()
        assert page.evaluate(CUT_OFF) == [], f"options at {width}"
        page.keyboard.press("Escape")


def focus(page: Page, name: str, *, most: int = 60) -> None:
    """Press Tab until the element of this name has the focus, as somebody without a mouse does."""
    for _ in range(most):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => {
                const e = document.activeElement;
                if (e === document.body || e.id === "main") return "";
                const label = e.labels?.[0]?.textContent ?? "";
                return `${e.getAttribute("aria-label") ?? ""} ${label} ${e.textContent}`;
            }"""
        )
        if name in here:
            assert page.evaluate("() => document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(f"Tab never reached {name!r}")


def test_everything_can_be_done_by_keyboard(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open()
    focus(page, "Your name")
    page.keyboard.type("Keys")
    page.keyboard.press("Enter")
    focus(page, "Your message")
    page.keyboard.type("hello")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("there")
    page.keyboard.press("Enter")
    answer = visitor.answers().first
    expect(answer.get_by_role("button", name="Why")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    focus(page, "Your message")
    while page.evaluate("() => document.activeElement.ariaLabel") != "Good answer":
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    focus(page, "Why? (optional)")
    page.keyboard.type("crisp")
    page.keyboard.press("Enter")
    expect(answer.locator(".reason-said")).to_contain_text("crisp")

    page.keyboard.press("Home")
    page.locator("body").press("Tab")  # wherever the focus is, the tabs are reached in the end
    focus(page, "Choose")
    page.keyboard.press("Enter")
    expect(page.locator("article.option").nth(1)).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator(".progress .done")).to_have_count(1)
    expect(page.locator("article.option").nth(1)).to_be_visible()
    page.keyboard.press("2")
    expect(page.locator(".progress .done")).to_have_count(2)

    focus(page, "Taste")
    page.keyboard.press("Enter")
    page.locator(".attributes").wait_for()
    focus(page, "long words")
    page.keyboard.press("Enter")
    focus(page, "Pin long words")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focus(page, "Pin")
    page.keyboard.press("Enter")
    expect(page.locator("details", has_text="long words")).to_contain_text("pinned at +0.2")
    focus(page, "Delete everything")
    page.keyboard.press("Enter")
    focus(page, "Delete everything")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Nothing is known about Keys")).to_be_visible()


def test_dialogs_give_the_focus_back(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open()
    for name in ("Settings", "Asking as nobody", "Options"):
        opener = page.get_by_role("button", name=name)
        opener.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(opener).to_be_focused()


def test_the_chosen_colours_stay(visitor: Visitor) -> None:
    page = visitor.page
    page.emulate_media(color_scheme="light")
    visitor.open()
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Dark").check()
    dark = page.evaluate(paper)
    assert dark != light
    page.keyboard.press("Escape")
    page.reload()
    assert page.evaluate(paper) == dark
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("As the system").check()
    assert page.evaluate(paper) == light
