"""What bad requests get: a clear 400 in OpenAI's shape, and never an engine's exception."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.serve.api.conftest import MODEL

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "messages", "missing_parameter"),
        ({"messages": [USER], "foo": 1}, "foo", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [USER] * 1_025}, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "invalid_value"),
        ({"messages": [USER], "temperature": 2.1}, "temperature", "invalid_value"),
        ({"messages": [USER], "top_p": 0}, "top_p", "invalid_value"),
        ({"messages": [USER], "n": 0}, "n", "invalid_value"),
        ({"messages": [USER], "n": 17}, "n", "invalid_value"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"messages": [USER], "presence_penalty": -3}, "presence_penalty", "invalid_value"),
        ({"messages": [USER], "logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"messages": [USER], "logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"messages": [USER], "top_logprobs": 2}, None, "invalid_value"),
        ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"messages": [USER], "stream_options": {"include_usage": True}}, None, "invalid_value"),
        ({"messages": [USER], "tool_choice": "auto"}, None, "invalid_value"),
        ({"messages": [USER], "response_format": {"type": "yaml"}}, "response_format", "invalid_value"),
        ({"messages": [USER], "seed": 2**63}, "seed", "invalid_value"),
        ({"messages": [USER], "user": "x" * 257}, "user", "invalid_value"),
        ({"messages": [USER], "stop": [""]}, "stop", "invalid_value"),
    ],
)
async def test_chat_refuses(client: httpx.AsyncClient, body: dict[str, Any], param: str | None, code: str) -> None:
    response = await client.post("/v1/chat/completions", json={"model": MODEL, **body})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert (error["param"] or "").startswith(param or "")
    assert error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ""},
        {"prompt": []},
        {"prompt": ["a"] * 65},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "suffix": "b"},
        {"prompt": [1, 2], "echo": True},
        {"prompt": "a", "echo": True, "logprobs": 1},
        {"prompt": [-1]},
    ],
)
async def test_completions_refuse(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post("/v1/completions", json={"model": MODEL, **body})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "headers", "code"),
    [
        (b'{"model": ', {"Content-Type": "application/json"}, "invalid_json"),
        (b'{"model": NaN}', {"Content-Type": "application/json"}, "invalid_json"),
        (b'{"model": "\\ud800"}', {"Content-Type": "application/json"}, "invalid_json"),
        (b"\xff\xfe", {"Content-Type": "application/json"}, "invalid_json"),
        (b'{"model": "x"}', {}, "invalid_value"),
        (b"[]", {"Content-Type": "application/json"}, "invalid_value"),
    ],
)
async def test_what_is_not_a_json_object(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str], code: str
) -> None:
    response = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code


async def test_another_model_is_404(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"model": "another", "messages": [USER]})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert MODEL in response.json()["error"]["message"]


async def test_parts_become_text_and_developer_becomes_system(client: httpx.AsyncClient) -> None:
    plain = [{"role": "system", "content": "Be brief."}, USER]
    parts = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        USER,
    ]
    answers = [
        (await client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})).json()["choices"]
        for messages in (plain, parts)
    ]
    assert answers[0] == answers[1]


async def test_unknown_addresses_and_methods(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    wrong = await client.get("/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
