"""The `palate` field of chat, and the rerank and score endpoints, over the scripted engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.serve.api.people import MODEL, Palate, running

LONG, SHORT = "There answer another plain.", "It is so at."


@pytest.fixture
async def palate(tmp_path: Path) -> AsyncIterator[Palate]:
    async with running(tmp_path) as palate:
        for number in range(6):
            await palate.say(kind="comparison", user="ann", prompt=f"q{number}", candidates=[LONG, SHORT], value=0)
        yield palate


def _told(answer: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = answer["palate"]
    return told


async def test_the_next_answer_uses_the_feedback(palate: Palate) -> None:
    stranger = _told(await palate.ask("new", seed=1))
    assert (stranger["personalized"], stranger["reason"]) == (False, "no_feedback")
    told = _told(await palate.ask("ann", seed=1, palate={"best_of": 6, "explain": True}))
    assert told["personalized"]
    assert told["num_candidates"] == len(told["candidates"]) == 6
    assert told["candidates"][0]["kind"] == "base"
    assert told["attributes"]["long_words"] > 0
    assert told["candidates"][told["choice"]["arm"]]["reward"] >= 0


async def test_a_stream_ends_with_the_report_and_official_clients_read_on(palate: Palate) -> None:
    client = AsyncOpenAI(base_url="http://palate/v1", api_key="none", http_client=palate.client)  # type: ignore[arg-type]  # its own copy of httpx
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        user="ann",
        stream=True,
        extra_body={"palate": {"best_of": 4}},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)  # no chunk is without choices
    assert len(text.split()) > 5
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["palate"]["personalized"]
    whole = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "hi"}],
        user="ann",
        n=2,
        extra_body={"palate": {"best_of": 5}},
    )
    assert len(whole.choices) == 2


async def test_a_stream_without_a_person_is_exactly_openais(palate: Palate) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    text = (await palate.client.post("/v1/chat/completions", json=body)).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert all(event["choices"] for event in events)
    assert "palate" not in text.replace('"palate-', "")


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"best_of": 33}, "palate.best_of", "less than or equal to 32"),
        ({"best_of": 17}, "palate.best_of", "at most 16 here"),
        ({"strength": 2}, "palate.strength", "less than or equal to 1"),
        ({"weights": {"mauve": 1}}, "palate.weights", "no attribute 'mauve'"),
        ({"weights": {"long_words": 11}}, "palate.weights.long_words", "less than or equal to 10"),
        ({"mauve": 1}, "palate.mauve", "Unknown parameter"),
        ({"aggregate": "vote"}, "palate.aggregate", "'mean', 'max_min' or 'nash'"),
        ({"users": [""]}, "palate.users.0", "at least 1 character"),
    ],
)
async def test_wrong_options_are_400(palate: Palate, options: dict[str, Any], param: str, message: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "user": "ann", "palate": options}
    response = await palate.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


async def test_rerank_follows_the_persons_taste(palate: Palate) -> None:
    body = {"model": MODEL, "query": "hi", "documents": [SHORT, {"text": LONG}], "user": "ann"}
    ranked = (await palate.client.post("/v1/rerank", json=body)).json()
    assert [result["index"] for result in ranked["results"]] == [1, 0]
    assert ranked["results"][0]["document"] == {"text": LONG}
    scores = [result["relevance_score"] for result in ranked["results"]]
    assert 1 > scores[0] > 0.5 > scores[1] > 0
    assert ranked["usage"]["total_tokens"] == 8
    best = (await palate.client.post("/v1/rerank", json={**body, "top_n": 1, "return_documents": False})).json()
    assert (ranked["palate"]["personalized"], ranked["palate"]["reason"]) == (True, "on")
    assert best["results"] == [{"index": 1, "relevance_score": scores[0]}]
    stranger = (await palate.client.post("/v1/rerank", json={**body, "user": "new"})).json()
    assert {result["relevance_score"] for result in stranger["results"]} == {0.5}
    assert (stranger["palate"]["personalized"], stranger["palate"]["reason"]) == (False, "no_feedback")
    nobody = (await palate.client.post("/v1/rerank", json={**body, "user": None})).json()
    assert nobody["palate"]["reason"] == "no_user"


async def test_score_is_the_same_judgement_in_the_texts_order(palate: Palate) -> None:
    body = {"model": MODEL, "text_1": "hi", "text_2": [SHORT, LONG], "user": "ann"}
    scored = (await palate.client.post("/v1/score", json=body)).json()
    assert [entry["index"] for entry in scored["data"]] == [0, 1]
    assert scored["data"][1]["score"] > 0.5 > scored["data"][0]["score"]
    single = (await palate.client.post("/v1/score", json={**body, "text_2": LONG})).json()
    assert single["data"][0]["score"] == scored["data"][1]["score"]


async def test_rerank_refuses_what_it_cannot_do(palate: Palate) -> None:
    body = {"model": MODEL, "query": "hi", "documents": [SHORT]}
    for change, message in (
        ({"documents": []}, "at least 1 item"),
        ({"palate": {"users": ["ann", "ben"]}}, "one person"),
        ({"top_n": 0}, "greater than or equal to 1"),
    ):
        response = await palate.client.post("/v1/rerank", json={**body, **change})
        assert response.status_code == 400
        assert message in response.json()["error"]["message"]
