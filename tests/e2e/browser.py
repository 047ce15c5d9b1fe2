"""A real Chromium on the page: found or installed, driven by Playwright, and watched for what must not happen."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

INSTALL = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_MS = 30_000


def find_chromium() -> str | None:
    """Find Chromium; as root on Debian, install it once."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (("apt-get", "update", "-qq"), INSTALL):
            subprocess.run(command, check=False, timeout=400, env=environment, capture_output=True)
        found = next(filter(None, map(shutil.which, NAMES)), None)
    return found


@contextlib.contextmanager
def running_browser(binary: str) -> Iterator[Browser]:
    """Start Chromium without a window. Playwright's loop lives in this thread meanwhile: run no other."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody in front of the page, with what went wrong in their browser."""

    page: Page
    origin: str
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note errors, and requests to other servers."""
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", self._request)
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))

    def _console(self, message: ConsoleMessage) -> None:
        # Chromium says of every 4xx that a resource failed to load; to the page those are answers.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.problems.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("data", "blob"):
            return
        if f"{address.scheme}://{address.netloc}" != self.origin:
            self.problems.append(f"request to {request.url}")

    def open(self, view: str = "chat") -> None:
        """Open a view, afresh."""
        self.page.goto(f"{self.origin}/#{view}")
        expect(self.page.locator("#tabs a[aria-current=page]")).to_be_visible()

    def go(self, view: str) -> None:
        """Go to a view by its tab."""
        self.page.get_by_role("navigation").get_by_role("link", name=view).click()
        expect(self.page.locator("#tabs a[aria-current=page]")).to_have_text(view)

    def become(self, name: str) -> None:
        """Create a person, or switch to one."""
        self.page.locator("#person").click()
        dialog = self.page.get_by_role("dialog", name="Who is asking?")
        known = dialog.get_by_role("button", name=name, exact=True)
        if known.count():
            known.click()
        else:
            dialog.get_by_label("New person").fill(name)
            dialog.get_by_role("button", name="Start").click()
        expect(self.page.locator("#person")).to_contain_text(name)

    def set_options(self, **values: str) -> None:
        """Fill number fields of the options, by their labels with underscores."""
        self.page.get_by_role("button", name="Options").click()
        dialog = self.page.get_by_role("dialog", name="Options")
        for name, value in values.items():
            dialog.get_by_label(name.replace("_", " ")).first.fill(value)
        dialog.get_by_role("button", name="Done").click()

    def answers(self) -> Locator:
        """All answers on the page."""
        return self.page.locator("article.message .answer")

    def ask(self, text: str) -> Locator:
        """Ask in chat, and return the answer once it is complete."""
        before = self.answers().count()
        self.page.get_by_label("Your message").fill(text)
        self.page.keyboard.press("Enter")
        answer = self.answers().nth(before)
        expect(answer.get_by_role("button", name="Copy")).to_be_visible()
        return answer

    def attributes(self) -> dict[str, float]:
        """Read the means that the taste view shows."""
        self.page.locator(".attributes").wait_for()
        read: dict[str, float] = self.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll(".attribute summary")].map((row) => [
                row.querySelector(".attribute-name").firstChild.textContent,
                Number(row.querySelector(".attribute-value strong").textContent.replace("−", "-")),
            ]))"""
        )
        return read

    def violations(self) -> list[dict[str, Any]]:
        """Ask axe-core what is wrong for people who use assistive technology; serious and critical findings."""
        self.page.evaluate(AXE.read_text())
        found: list[dict[str, Any]] = self.page.evaluate("() => axe.run(document).then((result) => result.violations)")
        return [
            {"id": one["id"], "where": [node["target"] for node in one["nodes"]], "why": one["help"]}
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
