"""Limits over HTTP: OpenAI's headers and refusals, people, broken-off streams; CORS and the gateway's secret."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2  # what the openai client speaks with
import openai
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.api.limits import duration
from serve.config import Config, Secrets
from serve.engines.scripted_engine import ScriptedEngine
from serve.limits import open_limiter
from serve.metrics import Metrics
from serve.service import LocalService
from tests.serve.api.conftest import MODEL
from tests.serve.api.people import running
from user_store.redis_client import RedisOptions

BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi [[tokens: 20]]"}],
    "max_tokens": 20,
}


def application(engine: ScriptedEngine, secrets: Secrets | None = None, **sections: Any) -> FastAPI:
    config = Config.model_validate({"model": {"served_name": MODEL}, **sections})
    metrics = Metrics()
    limiter = open_limiter(config.limits, "sqlite:x.db", RedisOptions(), metrics)
    return create_app(ApiContext(LocalService(engine), config, secrets or Secrets(), metrics, limiter=limiter))


@asynccontextmanager
async def serving(
    engine: ScriptedEngine, secrets: Secrets | None = None, **sections: Any
) -> AsyncIterator[httpx.AsyncClient]:
    app = application(engine, secrets, **sections)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://palate") as client:
        yield client


async def test_headers_tell_where_a_key_stands(engine: ScriptedEngine) -> None:
    limits = {"key": {"requests_per_minute": 3, "tokens_per_minute": 1_000}}
    async with serving(engine, limits=limits) as client:
        first = await client.post("/v1/chat/completions", json=BODY)
        assert first.headers["x-ratelimit-limit-requests"] == "3"
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        assert first.headers["x-ratelimit-limit-tokens"] == first.headers["x-ratelimit-remaining-tokens"] == "1000"
        assert re.fullmatch(r"1m0s|[1-5]?\d(\.\d+)?s", first.headers["x-ratelimit-reset-requests"])
        second = await client.post("/v1/chat/completions", json=BODY)
        spent = first.json()["usage"]["total_tokens"]
        assert second.headers["x-ratelimit-remaining-tokens"] == str(1_000 - spent)
        await client.post("/v1/chat/completions", json=BODY)
        refused = await client.post("/v1/chat/completions", json=BODY)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert (await client.get("/v1/models")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'palate_refusals_total{reason="requests"} 1.0' in metrics


async def test_the_openai_client_knows_the_refusal(engine: ScriptedEngine) -> None:
    transport = httpx2.ASGITransport(application(engine, limits={"key": {"tokens_per_day": 1}}))
    async with httpx2.AsyncClient(transport=transport) as client:
        palate = openai.AsyncOpenAI(api_key="none", base_url="http://palate/v1", http_client=client, max_retries=0)
        await palate.chat.completions.create(**BODY)
        with pytest.raises(openai.RateLimitError) as raised:
            await palate.chat.completions.create(**BODY)
        assert raised.value.code == "insufficient_quota"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_every_kind_of_answer_is_counted(engine: ScriptedEngine, path: str, is_stream: bool) -> None:
    body = BODY if "chat" in path else {"model": MODEL, "prompt": "hi [[tokens: 20]]", "max_tokens": 20}
    async with serving(engine, limits={"key": {"tokens_per_minute": 1_000}}) as client:
        await client.post(path, json={**body, "stream": is_stream})
        after = await client.post(path, json=body)
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == 1_000 - after.json()["usage"]["total_tokens"]


async def test_limits_hold_under_a_prefix_of_all_addresses(engine: ScriptedEngine) -> None:
    app = application(engine, limits={"key": {"tokens_per_minute": 1}})
    transport = httpx.ASGITransport(app, root_path="/palate")
    async with httpx.AsyncClient(transport=transport, base_url="http://palate/palate") as client:
        statuses = [(await client.post("/v1/chat/completions", json=BODY)).status_code for _ in range(2)]
        assert statuses == [200, 429]


async def test_people_have_limits_of_their_own(engine: ScriptedEngine) -> None:
    async with serving(engine, limits={"user": {"requests_per_minute": 1}}) as client:
        assert (await client.post("/v1/chat/completions", json={**BODY, "user": "ann"})).status_code == 200
        refused = await client.post("/v1/chat/completions", json={**BODY, "user": "ann"})
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await client.post("/v1/chat/completions", json={**BODY, "user": "bob"})).status_code == 200
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_every_kind_of_answer_counts_for_its_person(engine: ScriptedEngine, path: str) -> None:
    body = BODY if "chat" in path else {"model": MODEL, "prompt": "hi [[tokens: 20]]", "max_tokens": 20}
    for limits in ({"requests_per_minute": 1}, {"tokens_per_day": 10}):
        async with serving(engine, limits={"user": limits}) as client:
            statuses = [
                (await client.post(path, json={**body, "user": user})).status_code for user in ("ann", "ann", "bob")
            ]
            assert statuses == [200, 429, 200]


PAIR: dict[str, Any] = {"kind": "comparison", "value": 0, "prompt": "hi", "candidates": ["a b c", "there what clear"]}
WORDS: dict[str, Any] = {"kind": "comment", "value": "fine"}


async def test_feedback_counts_for_its_person(tmp_path: Path) -> None:
    async with running(tmp_path, limits={"user": {"requests_per_minute": 2}}) as palate:
        answer = await palate.ask("ann")
        thumb = {"kind": "thumb", "completion_id": answer["id"], "value": 1}
        await palate.say(**thumb)  # whose it is follows from the completion
        refused = await palate.say(429, **WORDS, user="ann")
        assert refused["error"]["code"] == "rate_limit_exceeded"
        await palate.say(429, **thumb)
        await palate.say(**WORDS, user="bob")
        assert (await palate.see("/v1/users/ann"))["num_events"] == 1


@pytest.mark.parametrize("whose", ["key", "user"])
async def test_texts_in_feedback_take_tokens_and_words_do_not(tmp_path: Path, whose: str) -> None:
    async with running(tmp_path, limits={whose: {"tokens_per_day": 12}}) as palate:
        for candidates in (["a b c", ""], PAIR["candidates"]):  # refused texts were read as well
            await palate.say(400 if "" in candidates else 200, **{**PAIR, "candidates": candidates}, user="ann")
        await palate.say(**PAIR, user="ann")
        refused = await palate.say(429, **PAIR, user="ann")
        assert refused["error"]["code"] == "insufficient_quota"
        await palate.say(**WORDS, user="ann")
        await palate.say(429 if whose == "key" else 200, **PAIR, user="bob")


async def test_a_refused_turn_is_not_overheard(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"limits": {"user": {"requests_per_minute": 1}}, "feedback": {"implicit": True}}
    async with running(tmp_path, **sections) as palate:
        said = (await palate.ask("ann"))["choices"][0]["message"]["content"]
        turns = [("user", "hi"), ("assistant", said), ("user", "Thank you, that is perfect!")]
        body = {"model": MODEL, "user": "ann", "messages": [{"role": role, "content": text} for role, text in turns]}
        assert (await palate.client.post("/v1/chat/completions", json=body)).status_code == 429
        await palate.memory.desk.settled()
        assert (await palate.see("/v1/feedback?user=ann"))["data"] == []


async def test_nothing_is_said_where_nothing_is_limited(engine: ScriptedEngine) -> None:
    async with serving(engine) as client:
        answer = await client.post("/v1/chat/completions", json=BODY)
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0s"), (0.02, "20ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s"), (86_343, "23h59m3s")]
)
def test_durations_look_like_openai_s(seconds: float, told: str) -> None:
    assert duration(seconds) == told


async def test_other_origins_may_call_only_where_configured(engine: ScriptedEngine) -> None:
    asked = {
        "Origin": "https://app.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with serving(engine) as client:
        refused = await client.options("/v1/chat/completions", headers=asked)
        assert "access-control-allow-origin" not in refused.headers
    secrets = Secrets(api_key=SecretStr("right"))
    async with serving(engine, secrets, http={"cors_origins": ["https://app.example.com"]}) as client:
        allowed = await client.options("/v1/chat/completions", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
        key = {"Authorization": "Bearer right", "Origin": "https://app.example.com"}
        answer = await client.post("/v1/chat/completions", json=BODY, headers=key)
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "access-control-allow-credentials" not in answer.headers
        stranger = await client.options("/v1/chat/completions", headers={**asked, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers
    with pytest.raises(ValueError, match="cors_origins"):
        Config.model_validate({"http": {"cors_origins": ["https://app.example.com/path"]}})


async def test_only_the_gateway_may_name_people(engine: ScriptedEngine) -> None:
    secrets = Secrets(gateway_secret=SecretStr("between us"))
    async with serving(engine, secrets, users={"trusted_header": "X-User"}) as client:
        for header in ({"X-User": "ann"}, {"X-User": "ann", "X-Palate-Gateway-Secret": "guess"}):
            refused = await client.post("/v1/chat/completions", json=BODY, headers=header)
            assert refused.status_code == 403
            assert "ann" not in refused.text
        gateway = {"X-User": "ann", "X-Palate-Gateway-Secret": "between us"}
        assert (await client.post("/v1/chat/completions", json=BODY, headers=gateway)).status_code == 200
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200
