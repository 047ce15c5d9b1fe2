"""`make pictures`: the README's pictures, taken from the running page with the default model answering.

`--matrix FOLDER` also takes every view at three widths, light and dark, to be looked at before a release.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, expect

from tests.e2e.browser import TIMEOUT_MS, Visitor, find_chromium, running_browser
from tests.e2e.server import running_server

Scheme = Literal["light", "dark"]
FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
QUESTION = "Give me tips for a rainy day."
PEOPLE = ("Anna", "Bob")  # one likes to be spoken to, the other does not
VIEWS = ("Chat", "Choose", "Taste", "Compare", "Operator")
WIDTHS = {390: 844, 768: 1_024, 1_440: 900}
PATIENCE_MS = 120_000


def main() -> None:
    """Start a server, live through it as two people, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the README's pictures go")
    parser.add_argument("--matrix", type=Path, help="take every view at every width here too")
    options = parser.parse_args()
    binary = find_chromium()
    if binary is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    options.out.mkdir(parents=True, exist_ok=True)
    settings: dict[str, dict[str, object]] = {"model": {"max_model_len": 2_048}, "engine": {"cpu_kv_cache_gib": 1}}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), "vllm", settings) as server,
        running_browser(binary) as browser,
    ):
        visitor = someone(browser, server.base_url, "light", 1_280, 800)
        for name in PEOPLE:
            teach(visitor, name)
        take_story(visitor, options.out)
        if options.matrix is not None:
            take_matrix(browser, visitor, server.base_url, options.matrix)


def someone(browser: Browser, origin: str, scheme: Scheme, width: int, height: int) -> Visitor:
    """Open a browser window of this size and look."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    visitor = Visitor(context.new_page(), origin)
    visitor.open()
    return visitor


def addressed(text: str) -> float:
    """Count "you" and "your" by word, as the README's example does."""
    return len(re.findall(r"(?i)\byou(?:r|rs)?\b", text)) / max(len(text.split()), 1)


def teach(visitor: Visitor, name: str) -> None:
    """Answer ten of the server's questions as this person would; ten teach what is said and how, and not how long."""
    visitor.become(name)
    visitor.go("Choose")
    for done in range(10):
        options = visitor.page.locator("article.option")
        expect(options.nth(1)).to_be_visible()
        shares = [addressed(option.locator(".markdown").inner_text()) for option in options.all()]
        place = shares.index(max(shares) if name == PEOPLE[0] else min(shares))
        options.nth(place).get_by_role("button", name=re.compile("Prefer")).click()
        expect(visitor.page.locator(".progress .done")).to_have_count(done + 1)


def take_story(visitor: Visitor, folder: Path) -> None:
    """Take what the README tells: a choice, a taste, an answer with its reasons, and one question to several people."""
    page = visitor.page
    visitor.become(PEOPLE[0])
    visitor.go("Choose")
    expect(page.locator("article.option").nth(1)).to_be_visible()
    _take(visitor, folder / "choose.png")
    visitor.go("Taste")
    visitor.attributes()
    _take(visitor, folder / "taste.png")
    visitor.go("Chat")
    visitor.set_options(Seed="1", Longest_answer="200")
    answer = visitor.ask(QUESTION)
    answer.get_by_role("button", name="Why").click()
    expect(answer.locator(".candidate").first).to_be_visible()
    answer.get_by_role("button", name="Why").scroll_into_view_if_needed()
    _take(visitor, folder / "why.png")
    visitor.go("Compare")
    page.get_by_label("The question for all of them").fill(QUESTION)
    page.keyboard.press("Enter")
    columns = page.locator("article.column")
    expect(columns).to_have_count(3)
    for place in range(3):
        expect(columns.nth(place).locator(".byline")).not_to_be_empty()
    _take(visitor, folder / "compare.png")


def take_matrix(browser: Browser, known: Visitor, origin: str, folder: Path) -> None:
    """Take every view at every width, light and dark, with what the known browser remembers of its people."""
    folder.mkdir(parents=True, exist_ok=True)
    state = known.page.context.storage_state()
    for scheme in ("light", "dark"):
        for width, height in WIDTHS.items():
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                reduced_motion="reduce",
                storage_state=state,
            )
            context.set_default_timeout(TIMEOUT_MS)
            visitor = Visitor(context.new_page(), origin)
            for view in VIEWS:
                visitor.open(view.lower())
                visitor.page.wait_for_timeout(1_500)  # figures and maps are drawn once their data is there
                visitor.page.screenshot(path=folder / f"{view.lower()}-{width}-{scheme}.png")
            context.close()


def _take(visitor: Visitor, path: Path) -> None:
    visitor.page.wait_for_timeout(500)
    visitor.page.screenshot(path=path)


if __name__ == "__main__":
    main()
