"""Who a request is for, what its key may do, and what is never written down about people."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serve.config import Secrets
from serve.keys import KeyFile, Scope
from tests.serve.api.people import MODEL, Palate, running

BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


async def whose(palate: Palate, headers: dict[str, str] | None = None, **names: str) -> str | None:
    """Ask, give feedback without a name, and see whose it became."""
    answer = await palate.client.post("/v1/chat/completions", json={**BODY, **names}, headers=headers)
    assert answer.status_code == 200, answer.text
    await palate.context.pipeline.shutdown()
    said = await palate.client.post(
        "/v1/feedback", json={"kind": "thumb", "completion_id": answer.json()["id"], "value": 1}
    )
    if said.status_code == 404:
        return None
    rows = (await palate.see("/v1/feedback?limit=100"))["data"]
    (user,) = {row["user"] for row in rows if row["id"] == said.json()["id"]}
    return str(user)


async def test_a_trusted_header_wins_over_the_safety_identifier_and_that_over_the_user(tmp_path: Path) -> None:
    trusted = {"X-Person": "from-proxy"}
    async with running(tmp_path, users={"trusted_header": "X-Person"}) as palate:
        assert await whose(palate, trusted, user="u", safety_identifier="s") == "from-proxy"
        assert await whose(palate, user="u", safety_identifier="s") == "s"
        assert await whose(palate, user="u") == "u"
        assert await whose(palate) is None
    async with running(tmp_path / "other") as palate:  # a header nobody trusts is nothing
        assert await whose(palate, trusted, user="u") == "u"


ANN = {"X-Person": "ann"}


async def status_of(palate: Palate, method: str, path: str, headers: dict[str, str] = ANN, /, **body: Any) -> int:
    response = await palate.client.request(method, path, headers=headers, json=body or None)
    if response.status_code >= 400:
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    return response.status_code


async def test_whom_the_gateway_names_gets_nobody_else_s_answer(tmp_path: Path) -> None:
    async with running(tmp_path, users={"trusted_header": "X-Person"}) as palate:
        for users, status in ((["bob"], 403), (["ann", "bob"], 403), (["ann"], 200)):
            body = {**BODY, "palate": {"users": users, "explain": True}}
            assert await status_of(palate, "POST", "/v1/chat/completions", **body) == status
        refused = await palate.client.post(
            "/v1/chat/completions", json={**BODY, "palate": {"users": ["bob"]}}, headers=ANN
        )
        assert (refused.json()["error"]["param"], refused.json()["error"]["code"]) == ("palate.users", "another_person")
        unnamed = {**BODY, "palate": {"users": ["bob"]}}
        assert await status_of(palate, "POST", "/v1/chat/completions", {"X-Person": ""}, **unnamed) == 403
        assert await whose(palate, {"X-Person": ""}, user="bob") is None
        twice = await palate.client.post(
            "/v1/chat/completions", json=BODY, headers=[("X-Person", "bob"), ("X-Person", "ann")]
        )
        assert twice.status_code == 403


async def test_whom_the_gateway_names_speaks_for_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, users={"trusted_header": "X-Person"}) as palate:
        bobs = (await palate.ask("bob"))["id"]
        said = await palate.say(kind="thumb", completion_id=bobs, value=1)
        pair = {"kind": "comparison", "value": 0, "prompt": "hi", "candidates": ["a b c", "there what clear"]}
        assert await status_of(palate, "POST", "/v1/feedback", user="bob", **pair) == 403
        assert await status_of(palate, "POST", "/v1/feedback", kind="thumb", completion_id=bobs, value=-1) == 404
        assert await status_of(palate, "POST", "/v1/feedback", {"X-Person": ""}, **pair) == 403
        assert await status_of(palate, "DELETE", f"/v1/feedback/{said['id']}") == 404
        assert await status_of(palate, "POST", "/v1/feedback", **pair) == 200
        listed = (await palate.client.get("/v1/feedback", headers=ANN)).json()["data"]
        assert {row["user"] for row in listed} == {"ann"}
        assert await status_of(palate, "GET", "/v1/feedback?user=bob") == 403
        assert await status_of(palate, "DELETE", f"/v1/feedback/{listed[0]['id']}") == 200
        rows = (await palate.see("/v1/feedback?user=bob"))["data"]
        assert [(row["id"], row["withdrawn"]) for row in rows] == [(said["id"], False)]


async def test_whom_the_gateway_names_sees_and_changes_nobody_else(tmp_path: Path) -> None:
    async with running(tmp_path, users={"trusted_header": "X-Person"}) as palate:
        for user in ("ann", "bob"):
            await palate.ask(user)
            await palate.say(kind="comment", user=user, value="fine")
        for below in ("", "/export", "/questions", "/neighbors", "/history", "/map"):
            assert await status_of(palate, "GET", f"/v1/users/bob{below}") == 403
            assert await status_of(palate, "GET", f"/v1/users/ann{below}") == 200
        assert await status_of(palate, "POST", "/v1/users/bob/import") == 403
        assert await status_of(palate, "PATCH", "/v1/users/bob", learning_paused=True) == 403
        assert await status_of(palate, "DELETE", "/v1/users/bob") == 403
        assert (await palate.see("/v1/users/bob"))["num_events"] == 1


async def test_a_person_nobody_can_be_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        response = await palate.client.post("/v1/chat/completions", json={**BODY, "user": "a\nb"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "user")


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.INFER, {"chat"}),
        (Scope.FEEDBACK, {"say", "withdraw"}),
        (Scope.USERS_READ, {"list", "see", "export"}),
        (Scope.USERS_WRITE, {"change", "erase"}),
        (Scope.ADMIN, {"chat", "say", "withdraw", "list", "see", "export", "change", "erase"}),
    ],
)
async def test_a_key_does_what_its_scope_allows_and_nothing_else(
    tmp_path: Path, scope: Scope, allowed: set[str]
) -> None:
    _, key = KeyFile(tmp_path / "keys.json").create("default", frozenset({scope}), now=1.0)
    calls: dict[str, tuple[str, str, Any]] = {
        "chat": ("POST", "/v1/chat/completions", BODY),
        "say": ("POST", "/v1/feedback", {"kind": "comment", "user": "ann", "value": "fine"}),
        "withdraw": ("DELETE", "/v1/feedback/fb-none", None),
        "list": ("GET", "/v1/feedback", None),
        "see": ("GET", "/v1/users/ann", None),
        "export": ("GET", "/v1/users/ann/export", None),
        "change": ("PATCH", "/v1/users/ann", {}),
        "erase": ("DELETE", "/v1/users/ann", None),
    }
    async with running(tmp_path, key=key) as palate:
        statuses = {
            name: (await palate.client.request(method, path, json=body)).status_code
            for name, (method, path, body) in calls.items()
        }
        assert {name for name, status in statuses.items() if status != 403} == allowed
        assert (await palate.client.get("/v1/models")).status_code == 200
        refused = await palate.client.get("/v1/models", headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401


async def test_the_environments_key_reaches_the_people_of_the_open_server(tmp_path: Path) -> None:
    async with running(tmp_path) as palate:
        await palate.say(kind="comment", user="ann", value="fine")
    async with running(tmp_path, Secrets(api_key=SecretStr("k")), key="k") as palate:
        assert (await palate.see("/v1/users/ann"))["num_events"] == 1


async def test_no_name_is_in_logs_or_metrics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path, feedback={"implicit": True}) as palate:
        answer = await palate.ask("nobody-may-read-this")
        await palate.say(kind="thumb", completion_id=answer["id"], value=1, reason="this-neither")
        await palate.say(400, kind="thumb", user="nobody-may-read-this", value=3)
        for path in ("", "/export", "/neighbors", "/questions"):
            await palate.client.get(f"/v1/users/nobody-may-read-this{path}")
        await palate.client.delete("/v1/users/nobody-may-read-this")
        metrics = (await palate.client.get("/metrics")).text
    ours = [
        record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
    ]  # the client's own
    text = metrics + "".join(record.getMessage() for record in ours)
    assert "nobody-may-read-this" not in text
    assert "this-neither" not in text
    assert 'path="/v1/users/{user_id:path}"' in metrics
