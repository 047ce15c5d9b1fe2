"""The official client against a real server, on both engines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.e2e.server import Server
from tests.patience import PATIENCE_S, wait_until

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
SOON_S = 20.0  # long before the generation would end by itself
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key="none",
        max_retries=0,
        timeout=120,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    ) as client:
        yield client


def test_chat(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(model=server.model, messages=QUESTION, temperature=0, max_tokens=30)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 30


@pytest.mark.engine
def test_the_real_model_knows_paris(vllm_server: Server) -> None:
    with OpenAI(base_url=f"{vllm_server.base_url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model=vllm_server.model, messages=QUESTION, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")


def test_streaming_equals_the_whole(client: OpenAI, server: Server) -> None:
    whole = client.chat.completions.create(model=server.model, messages=QUESTION, temperature=0, max_tokens=20)
    chunks = list(
        client.chat.completions.create(
            model=server.model,
            messages=QUESTION,
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 4  # it came in pieces


def test_several_choices_differ(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(model=server.model, messages=QUESTION, n=3, seed=5, max_tokens=24)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_stop_ends_the_text_before_it(client: OpenAI, server: Server) -> None:
    free = client.chat.completions.create(model=server.model, messages=QUESTION, temperature=0, max_tokens=20)
    words = (free.choices[0].message.content or "").split(" ")
    cut = client.chat.completions.create(
        model=server.model, messages=QUESTION, temperature=0, max_tokens=20, stop=[f" {words[2]}"]
    )
    assert (cut.choices[0].message.content or "").split(" ") == words[:2]
    assert cut.choices[0].finish_reason == "stop"


def test_max_completion_tokens_cuts(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(model=server.model, messages=QUESTION, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_same_seed_same_text(client: OpenAI, server: Server) -> None:
    texts = [
        client.chat.completions.create(model=server.model, messages=QUESTION, seed=seed, temperature=1, max_tokens=24)
        .choices[0]
        .message.content
        for seed in (11, 11, 12)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_logprobs(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(
        model=server.model, messages=QUESTION, max_tokens=5, logprobs=True, top_logprobs=2, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert bytes(entry.bytes or ()).decode() == entry.token


def test_json_schema(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(
        model=server.model,
        messages=QUESTION,
        max_tokens=60,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "schema": {
                    "type": "object",
                    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
    )
    assert json.loads(answer.choices[0].message.content or "")["city"] in ("Paris", "Rome")


def test_a_named_tool_is_called(client: OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(
        model=server.model,
        messages=QUESTION,
        max_tokens=80,
        temperature=0,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments)["city"] in ("Paris", "Rome")


def test_completions(client: OpenAI, server: Server) -> None:
    answer = client.completions.create(
        model=server.model, prompt=["The capital of France is", "One and one is"], max_tokens=4, n=2, logprobs=1, seed=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens is not None
        assert "".join(choice.logprobs.tokens) == choice.text
    chunks = list(
        client.completions.create(model=server.model, prompt="One, two", max_tokens=4, temperature=0, stream=True)
    )
    whole = client.completions.create(model=server.model, prompt="One, two", max_tokens=4, temperature=0, echo=True)
    assert "One, two" + "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_token_ids_as_a_prompt(client: OpenAI, server: Server) -> None:
    answer = client.completions.create(model=server.model, prompt=[1, 2, 3, 4], max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_models(client: OpenAI, server: Server) -> None:
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).object == "model"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("another")
    assert raised.value.code == "model_not_found"


def test_too_long_a_prompt_names_both_numbers(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": "word " * 3_000}], max_tokens=4
        )
    assert raised.value.code == "context_length_exceeded"
    assert "2048 tokens" in raised.value.message
    assert re.search(r"the prompt has 30\d\d tokens", raised.value.message)


def test_errors_have_openais_shape(client: OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=server.model, messages=QUESTION, temperature=9)
    assert raised.value.param == "temperature"
    assert raised.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=server.model,
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    answer = client.chat.completions.create(model=server.model, messages=QUESTION, max_tokens=2)
    assert answer.choices  # and the server goes on


def test_a_client_that_leaves_frees_its_generation(server: Server) -> None:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Tell me a story. [[tokens: 1500]] [[delay: 0.2]]"}],
        "max_tokens": 1_500,
        "ignore_eos": True,
    }
    with httpx.Client(base_url=server.base_url, timeout=PATIENCE_S, trust_env=False) as client:
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
            lines = stream.iter_lines()  # httpx closes the stream when this is dropped
            next(lines)
            assert _running(client) == 1
        _assert_soon_free(client)
        impatient = httpx.Timeout(PATIENCE_S, read=1.0)
        with pytest.raises(httpx.ReadTimeout):
            pytest.fail(client.post("/v1/chat/completions", json=body, timeout=impatient).text)
        _assert_soon_free(client)


def _running(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("palate_generations_running"))


def _assert_soon_free(client: httpx.Client) -> None:
    wait_until(lambda: _running(client) == 0, SOON_S)
