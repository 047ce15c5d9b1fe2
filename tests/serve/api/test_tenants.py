"""No sequence of calls with one tenant's key shows anything of another's."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.keys import KeyFile, Scope
from tests.serve.api.people import MODEL, Palate, running

USERS = ("ann", "bob")
MARK = "only-alpha-knows-this"

SAYINGS = ("thumb", "compare", "comment", "replay")
LOOKS = ("list", "page", "see", "export", "questions", "neighbors")

Step = tuple[str, str, int]  # what is done, to whom, with which of the ids seen so far
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [*SAYINGS, *LOOKS, "ask", "withdraw", "erase", "pin"],
        ),
        st.sampled_from(USERS),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=8,
)


class Tenant:
    """One key's view: it calls with ids it saw, or with ids somebody else saw."""

    def __init__(self, client: httpx.AsyncClient, key: str, mark: str) -> None:
        self.client, self.mark = client, mark
        self.headers = {"Authorization": f"Bearer {key}"}
        self.completions: list[str] = []
        self.events: list[str] = []
        self.answers: list[httpx.Response] = []

    async def call(self, method: str, path: str, **body: Any) -> httpx.Response:
        response = await self.client.request(method, path, headers=self.headers, **body)
        assert response.status_code < 500, response.text
        self.answers.append(response)
        return response

    async def do(self, step: Step, others: Tenant) -> None:
        what, user, number = step
        ids = [*self.completions, *others.completions] or ["chatcmpl-none"]
        events = [*self.events, *others.events] or ["fb-none"]
        completion_id, event_id = ids[number % len(ids)], events[number % len(events)]
        inline = {"user": user, "prompt": "hi", "candidates": ["a b c", "there what clear"]}
        say: dict[str, dict[str, Any]] = {
            "thumb": {"kind": "thumb", "completion_id": completion_id, "value": 1, "reason": self.mark},
            "compare": {"kind": "comparison", **inline, "value": number % 2, "metadata": {"mark": self.mark}},
            "comment": {"kind": "comment", "user": user, "value": self.mark},
            "replay": {"kind": "comment", "user": user, "value": "again", "idempotency_key": "shared"},
        }
        if what in say:
            response = await self.call("POST", "/v1/feedback", json=say[what])
            if response.status_code == 200:
                self.events.append(response.json()["id"])
        elif what == "ask":
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": user}
            self.completions.append((await self.call("POST", "/v1/chat/completions", json=body)).json()["id"])
        elif what == "pin":
            await self.call("PATCH", f"/v1/users/{user}", json={"pins": {"long_words": 0.125 * number}})
        elif what == "erase":
            await self.call("DELETE", f"/v1/users/{user}")
        elif what == "withdraw":
            await self.call("DELETE", f"/v1/feedback/{event_id}")
        else:
            suffix = {"export": "/export", "questions": "/questions", "neighbors": "/neighbors"}.get(what, "")
            paths = {"list": "/v1/feedback?limit=100", "page": f"/v1/feedback?after={event_id}"}
            await self.call("GET", paths.get(what, f"/v1/users/{user}{suffix}"))


async def interleave(palate: Palate, keys: tuple[str, str], alpha: Sequence[Step], beta: Sequence[Step]) -> None:
    one, two = Tenant(palate.client, keys[0], MARK), Tenant(palate.client, keys[1], "beta")
    for index in range(max(len(alpha), len(beta))):
        if index < len(alpha):
            await one.do(alpha[index], Tenant(palate.client, keys[1], "nobody"))
        await palate.context.pipeline.shutdown()
        if index < len(beta):
            await two.do(beta[index], one)
    for answer in two.answers:
        assert MARK not in answer.text
        if answer.request.method != "DELETE" and "after=" not in str(answer.request.url):
            assert not [name for name in one.completions if name in answer.text]
        if answer.request.method == "GET" and answer.status_code == 200:
            assert not [name for name in one.events if name in answer.text and name not in two.events]


async def untouched(palate: Palate, keys: tuple[str, str], alpha: Sequence[Step], beta: Sequence[Step]) -> None:
    """What alpha sees of its people is the same whether or not beta did anything in between."""
    one, two = Tenant(palate.client, keys[0], MARK), Tenant(palate.client, keys[1], "beta")
    for step in alpha:
        await one.do(step, one)
    await palate.context.pipeline.shutdown()

    async def view() -> list[str]:
        paths = [f"/v1/users/{user}{suffix}" for user in USERS for suffix in ("", "/export", "/neighbors")]
        return [(await one.call("GET", path)).text for path in ("/v1/feedback?limit=100", *paths)]

    before = await view()
    for step in beta:
        await two.do(step, one)
    assert await view() == before


def run(check: Any, alpha: list[Step], beta: list[Step]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = KeyFile(Path(folder) / "keys.json")
            everything = frozenset(Scope)
            _, first = file.create("alpha", everything, now=1.0)
            _, second = file.create("beta", everything, now=1.0)
            async with running(Path(folder)) as palate:
                await check(palate, (first, second), alpha, beta)

    asyncio.run(main())


SETTINGS = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@SETTINGS
@given(STEPS, STEPS)
def test_nothing_of_one_tenant_is_shown_to_another(alpha: list[Step], beta: list[Step]) -> None:
    run(interleave, alpha, beta)


@SETTINGS
@given(STEPS, STEPS)
def test_nothing_one_tenant_does_changes_what_another_sees(alpha: list[Step], beta: list[Step]) -> None:
    run(untouched, alpha, beta)
