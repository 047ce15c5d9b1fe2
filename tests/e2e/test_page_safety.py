"""What must not happen on the page: foreign script, foreign servers, a key that outlives its tab."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.browser import Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ATTACKS = (
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=2>",
    "<svg/onload=window.hit=3>",
    "<iframe src=javascript:window.hit=4></iframe>",
    "<a href='javascript:window.hit=5'>a</a>",
    "<details open ontoggle=window.hit=6>",
    "</textarea><script>window.hit=7</script>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.hit=8>",
)
LINKS = (
    "[a](javascript:window.hit=11)",
    "[a](JaVaScRiPt&colon;window.hit=12)",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](vbscript:x)",
    "![a](x onerror=window.hit=13)",
    "<javascript:window.hit=14>",
)
FORBIDDEN = "main script, main iframe, main img, main object, main embed, main form form, main math, main style"


def nothing_ran(visitor: Visitor) -> None:
    assert visitor.page.evaluate("() => window.hit") is None
    assert visitor.page.locator(FORBIDDEN).count() == 0
    handlers = visitor.page.evaluate(
        "() => [...document.querySelectorAll('main *')].flatMap((e) => e.getAttributeNames())"
        ".filter((name) => name.startsWith('on') || name === 'style' || name === 'srcdoc')"
    )
    assert handlers == [] or set(handlers) == {"style"}
    links = visitor.page.evaluate("() => [...document.querySelectorAll('main a')].map((a) => a.protocol)")
    assert set(links) <= {"http:", "https:", "mailto:"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_markup_stays_text(visitor: Visitor, attack: str) -> None:
    page = visitor.page
    visitor.open()
    visitor.become(f"Eve {attack}"[:60])
    answer = visitor.ask(f"[[say: {attack} and **more**]]")
    expect(page.locator(".message.mine")).to_contain_text(attack)
    expect(answer.locator(".markdown")).to_contain_text(attack)
    answer.get_by_role("button", name="Bad answer").click()
    answer.get_by_label("Why? (optional)").fill(attack)
    answer.get_by_role("button", name="Add").click()
    expect(answer.locator(".reason-said")).to_contain_text(attack)
    answer.get_by_role("button", name="Why").click()
    nothing_ran(visitor)
    visitor.go("Taste")
    expect(page.locator(".events")).to_contain_text(attack)
    nothing_ran(visitor)


def test_links_lead_to_the_web_or_nowhere(visitor: Visitor) -> None:
    visitor.open()
    answer = visitor.ask(f"[[say: {' '.join(LINKS)} [good](https://example.org/a) <https://example.org/b>]]")
    good = answer.locator(".markdown a")
    expect(good).to_have_count(2)
    for place in range(2):
        expect(good.nth(place)).to_have_attribute("rel", "noopener noreferrer nofollow")
    nothing_ran(visitor)


def test_markdown_is_shown(visitor: Visitor) -> None:
    visitor.open()
    text = (
        "# Head\n\n1. one\n2. **two**\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```\n<b>code</b>\n```\n\n> said & done &lt;"
    )
    shown = visitor.ask(f"[[say: {text}]]").locator(".markdown")
    expect(shown.locator("h3")).to_have_text("Head")
    expect(shown.locator("ol li strong")).to_have_text("two")
    expect(shown.locator("td.align-right")).to_have_text("2")
    expect(shown.locator("pre code")).to_have_text("<b>code</b>")
    expect(shown.locator("blockquote")).to_have_text("said & done <")


def test_the_policy_stops_what_is_injected(visitor: Visitor) -> None:
    """Even code that got in could neither make markup from strings nor reach another server."""
    visitor.open()
    refused = visitor.page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            try { document.body.innerHTML = "<p>x"; } catch { refused.push("markup"); }
            await fetch("http://127.0.0.2:9/").catch(() => {});
            const image = document.createElement("img");
            image.src = "http://127.0.0.2:9/x.png";
            document.body.append(image);
            const script = document.createElement("script");
            script.append("window.hit = 21");
            try { document.body.append(script); } catch { refused.push("script"); }
            await new Promise((resolve) => setTimeout(resolve, 200));
            return [window.hit ?? null, ...refused];
        }"""
    )
    visitor.problems.clear()  # every refusal is an error in the console
    assert refused[0] is None, "an inline script ran"
    assert {"markup", "connect-src", "img-src"} <= set(refused)


def test_the_key_stays_in_this_tab(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill("pk-secret-1")
    with page.expect_request("**/v1/models") as request:
        page.get_by_role("button", name="Save").click()
    assert request.value.headers["authorization"] == "Bearer pk-secret-1"
    expect(page.locator("#tabs")).to_be_visible()
    kept = page.evaluate("() => [JSON.stringify(localStorage), document.cookie, location.href].join()")
    assert "secret" not in kept
    page.reload()
    assert page.evaluate("() => sessionStorage.getItem('palate.key')") == "pk-secret-1"
    other = page.context.new_page()
    other.goto(f"{visitor.origin}/")
    assert other.evaluate("() => sessionStorage.getItem('palate.key')") is None


def test_a_missing_key_is_asked_for(visitor: Visitor) -> None:
    refusal = '{"error": {"message": "The API key is missing.", "type": "x", "param": null, "code": "invalid_api_key"}}'
    visitor.page.route(
        "**/v1/**", lambda route: route.fulfill(status=401, content_type="application/json", body=refusal)
    )
    visitor.open()
    expect(visitor.page.get_by_role("alert")).to_contain_text("asks for an API key")
    visitor.page.get_by_role("button", name="Enter a key").click()
    visitor.page.unroute("**/v1/**")
    visitor.page.get_by_label("API key").fill("pk-x")
    visitor.page.get_by_role("button", name="Save").click()
    expect(visitor.page.get_by_role("alert")).to_be_empty()
    visitor.ask("hello")


def test_the_api_reference_works_under_its_policy(visitor: Visitor) -> None:
    visitor.page.goto(f"{visitor.origin}/docs")
    expect(visitor.page.get_by_text("/v1/chat/completions")).to_be_visible()
    visitor.page.get_by_role("button", name="POST /v1/feedback", exact=False).first.click()
    expect(visitor.page.get_by_text("idempotency_key").first).to_be_visible()
