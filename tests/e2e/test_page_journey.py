"""The page as a person uses it: from the first visit to everything being deleted, on a real server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.e2e.browser import Visitor
from tests.e2e.server import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

QUESTION = "What should I do on a rainy Sunday?"


def mean_word_length(option: Locator) -> float:
    words = re.findall(r"\w+", option.locator(".markdown").inner_text())
    return sum(map(len, words)) / max(1, len(words))


def choose_consistently(visitor: Visitor, number: int) -> None:
    """Prefer the longer words, as somebody would who likes them."""
    for done in range(number):
        options = visitor.page.locator("article.option")
        expect(options.nth(1)).to_be_visible()
        longest = max(options.all(), key=mean_word_length)
        longest.get_by_role("button", name="Prefer").click()
        expect(visitor.page.locator(".progress .done")).to_have_count(done + 1)


@pytest.mark.parametrize("visitor", ["scripted", pytest.param("vllm", marks=pytest.mark.engine)], indirect=True)
def test_a_person_comes_is_known_and_leaves(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.open()
    page.get_by_label("Your name, or any name").fill("Ann")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="Good to see you, Ann")).to_be_visible()
    visitor.set_options(Seed="7", Longest_answer="48")

    before = visitor.ask(QUESTION)
    said_before = before.locator(".markdown").inner_text()
    assert said_before.strip()
    expect(before.locator(".byline")).to_contain_text("nothing is known yet")
    before.get_by_role("button", name="Good answer").click()
    expect(before.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    before.get_by_label("Why? (optional)").fill("pleasant")
    before.get_by_role("button", name="Add").click()
    expect(before.locator(".reason-said")).to_contain_text("pleasant")
    visitor.go("Taste")
    after_thumb = visitor.attributes()
    expect(page.locator(".events li")).to_have_count(2)  # the later one replaces the earlier

    visitor.go("Choose")
    choose_consistently(visitor, 10)
    expect(page.locator(".taste-card")).to_contain_text("Ann")
    visitor.go("Taste")
    assert visitor.attributes() != after_thumb
    page.locator(".attribute summary").first.click()
    expect(page.locator("details[open]")).to_contain_text("Taught most by")

    visitor.go("Chat")
    page.get_by_role("button", name="New chat").click()
    visitor.set_options(Best_of="8")
    after = visitor.ask(QUESTION)
    expect(after.locator(".byline")).to_contain_text("best of 8")
    assert after.locator(".markdown").inner_text() != said_before
    after.get_by_role("button", name="Why").click()
    expect(after.locator(".candidate")).to_have_count(8)
    expect(after.locator(".candidate.served")).to_have_count(1)

    visitor.go("Taste")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export everything").click()
    download.value.save_as(tmp_path / "export.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "export.jsonl").read_text().splitlines()]
    assert len(lines) > 12
    page.get_by_role("button", name="Delete everything").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete everything").click()
    expect(page.get_by_role("heading", name="Nothing is known about Ann")).to_be_visible()


def test_stop_retry_and_taking_a_thumb_back(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open()
    visitor.become("Stopper")
    page.get_by_label("Your message").fill("[[delay: 0.05]] [[tokens: 400]] go on")
    page.keyboard.press("Enter")
    expect(visitor.answers().first.locator(".markdown")).to_have_text(re.compile(r"\w+ \w+"))
    page.get_by_role("button", name="Stop", exact=True).click()
    stopped = visitor.answers().first
    expect(stopped.locator(".answer-note")).to_have_text("Stopped.")
    assert stopped.locator(".markdown").inner_text()
    page.get_by_role("button", name="New chat").click()

    answer = visitor.ask("hello")
    answer.get_by_role("button", name="Bad answer").click()
    expect(answer.get_by_label("Why? (optional)")).to_be_visible()
    answer.get_by_role("button", name="Bad answer").click()
    expect(answer.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "false")
    answer.get_by_role("button", name="Try again").click()
    expect(visitor.answers()).to_have_count(1)
    expect(visitor.answers().first.get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "false")
    visitor.go("Taste")
    expect(page.locator(".events li.withdrawn")).to_have_count(1)


def test_an_error_is_told_and_can_be_tried_again(visitor: Visitor) -> None:
    visitor.open()
    page = visitor.page
    page.get_by_label("Your message").fill("[[fail: 3]]")
    page.keyboard.press("Enter")
    expect(visitor.answers().first.locator(".answer-note")).to_contain_text("told to fail")
    expect(visitor.answers().first.get_by_role("button", name="Try again")).to_be_visible()


def test_own_questions_pins_bars_and_pauses(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("choose")
    page.get_by_label("Your name, or any name").fill("Decider")
    page.get_by_role("button", name="Start").click()
    page.get_by_label("My own question").check()
    page.get_by_label("Your question").fill("Which way?")
    page.get_by_role("button", name="Get two answers").click()
    expect(page.locator("article.option")).to_have_count(2)
    page.get_by_role("button", name="Prefer the second").click()
    expect(page.locator(".progress .done")).to_have_count(1)

    visitor.go("Taste")
    row = page.locator("details", has_text="long words")
    row.locator("summary").click()
    row.get_by_label("Pin long words").fill("1.5")
    row.get_by_role("button", name="Pin", exact=True).click()
    expect(row).to_contain_text("pinned at +1.5")
    expect(row.locator("summary")).to_be_focused()
    row.get_by_role("button", name="Unpin").click()
    expect(row.get_by_role("button", name="Unpin")).to_have_count(0)
    row.get_by_role("button", name="Never use it").click()
    expect(row).to_contain_text("barred")
    page.get_by_label("Pause learning").check()
    expect(page.locator(".view-head")).to_contain_text("Learning is paused")
    counted = page.locator(".view-head small").inner_text()
    visitor.go("Chat")
    visitor.ask("hi").get_by_role("button", name="Good answer").click()
    expect(page.locator(".reason")).to_be_visible()
    visitor.go("Taste")
    expect(page.locator(".events li")).to_have_count(2)
    expect(page.locator(".events li").first).to_contain_text("no change")
    assert "1 count" in page.locator(".view-head small").inner_text() or "1 piece" in counted
    page.locator(".events li").nth(1).get_by_role("button").click()
    expect(page.locator(".events li.withdrawn")).to_have_count(1)


def test_the_same_question_to_two_people_and_nobody(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open()
    visitor.become("Left")
    visitor.become("Right")
    visitor.go("Compare")
    page.get_by_label("The question for all of them").fill("What now?")
    page.keyboard.press("Enter")
    columns = page.locator("article.column")
    expect(columns).to_have_count(3)
    expect(page.locator(".column .byline")).to_have_text(
        ["Base model: nothing is known yet", "Base model: nothing is known yet", "Base model, nobody’s taste"]
    )
    texts = [columns.nth(place).locator(".markdown").inner_text() for place in range(3)]
    assert texts[0] == texts[1] == texts[2]  # the same seed, and nothing is known of either


def test_people_are_switched_and_forgotten_here_only(visitor: Visitor, scripted_server: Server) -> None:
    page = visitor.page
    visitor.open()
    visitor.become("Remembered")
    visitor.ask("hi").get_by_role("button", name="Good answer").click()
    expect(page.locator(".reason")).to_be_visible()
    visitor.become("Another")
    expect(visitor.answers()).to_have_count(0)  # each has a conversation of their own
    visitor.become("Remembered")
    expect(visitor.answers()).to_have_count(1)
    page.locator("#person").click()
    page.get_by_role("button", name="Forget Remembered on this browser").click()
    page.keyboard.press("Escape")
    expect(page.locator("#person")).to_contain_text("Nobody")
    page.reload()
    page.locator("#person").click()
    expect(page.get_by_role("button", name="Another", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Remembered", exact=True)).to_have_count(0)
    page.keyboard.press("Escape")
    known = page.request.get(f"{scripted_server.base_url}/v1/users/Remembered")
    assert known.status == 200


def test_the_operator_sees_what_happened(visitor: Visitor) -> None:
    visitor.open()
    visitor.become("Counted")
    visitor.ask("hi")
    visitor.go("Operator")
    expect(visitor.page.locator(".tiles")).to_contain_text("in all")
    expect(visitor.page.locator("main")).to_contain_text("scripted-1")
    expect(visitor.page.locator("main")).to_contain_text("nothing known yet")
