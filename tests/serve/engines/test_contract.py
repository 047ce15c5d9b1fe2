"""What every engine must do; each runs through the same checks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from serve.config import EngineConfig, ModelConfig
from serve.engines.protocol import ChatInput, Engine, GenerationRequest, Output, Sampling
from serve.engines.scripted_engine import ScriptedEngine
from serve.errors import ContextLengthExceeded, EngineUnavailable, GenerationFailed, InvalidRequest
from serve.home import Home
from serve.models import DEFAULT_MODEL, resolve

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = ChatInput(messages=[{"role": "user", "content": "What is the capital of France?"}])
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]},
    },
}
_numbers = iter(range(1_000_000))


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["scripted", pytest.param("vllm", marks=pytest.mark.engine)]
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine: Engine
    if request.param == "scripted":
        engine = ScriptedEngine("m", max_model_len=512)
    else:
        from serve.engines.vllm_engine import VllmEngine

        model = ModelConfig(max_model_len=512, tool_parser="hermes")
        path = resolve(DEFAULT_MODEL.name, Home.from_env(), quiet=True)
        engine = VllmEngine(model, EngineConfig(cpu_kv_cache_gib=1, max_num_seqs=16), path)
    with pytest.raises(EngineUnavailable):
        await engine.check_health()
    await engine.start()
    yield engine
    await engine.shutdown()
    await engine.shutdown()  # safe twice
    with pytest.raises(EngineUnavailable):
        await engine.check_health()


def _request(*, text: str | None = None, is_streaming: bool = True, **fields: Any) -> GenerationRequest:
    sampling = fields.pop("sampling", Sampling(max_tokens=16, temperature=0.0))
    chat = None if text is not None or "token_ids" in fields else fields.pop("chat", CHAT)
    return GenerationRequest(
        request_id=f"r{next(_numbers)}", sampling=sampling, chat=chat, text=text, is_streaming=is_streaming, **fields
    )


async def _outputs(engine: Engine, request: GenerationRequest) -> list[Output]:
    return [output async for output in engine.generate(request)]


def _texts(outputs: list[Output], n: int = 1) -> list[str]:
    return ["".join(d.text for output in outputs for d in output.deltas if d.index == index) for index in range(n)]


async def test_the_model_is_described(engine: Engine) -> None:
    assert engine.model.max_model_len == 512
    assert engine.model.has_tools
    await engine.check_health()


async def test_streamed_and_whole_are_the_same(engine: Engine) -> None:
    streamed = await _outputs(engine, _request())
    whole = await _outputs(engine, _request(is_streaming=False))
    assert _texts(streamed) == _texts(whole)
    assert len(streamed) > 3
    assert sum(len(output.deltas) for output in whole) == 1
    count = sum(delta.num_tokens for output in streamed for delta in output.deltas)
    assert count == whole[0].deltas[0].num_tokens
    assert streamed[-1].deltas[0].finish_reason == whole[0].deltas[0].finish_reason
    assert all(delta.finish_reason is None for output in streamed[:-1] for delta in output.deltas)
    assert streamed[0].num_prompt_tokens == whole[0].num_prompt_tokens > 0


async def test_choices_end_each_for_itself(engine: Engine) -> None:
    outputs = await _outputs(engine, _request(sampling=Sampling(n=3, max_tokens=12, seed=4, temperature=1.0)))
    ends = [delta.index for output in outputs for delta in output.deltas if delta.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert len(set(_texts(outputs, 3))) > 1


async def test_seeds(engine: Engine) -> None:
    texts = [
        _texts(await _outputs(engine, _request(sampling=Sampling(max_tokens=16, seed=seed, temperature=1.0))))
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_texts_and_token_ids(engine: Engine) -> None:
    assert _texts(await _outputs(engine, _request(text="One, two,")))[0]
    by_ids = await _outputs(engine, _request(token_ids=[1, 2, 3]))
    assert by_ids[0].num_prompt_tokens == 3


async def test_limits_and_stops(engine: Engine) -> None:
    cut = await _outputs(engine, _request(sampling=Sampling(max_tokens=3, temperature=0.0)))
    assert cut[-1].deltas[0].finish_reason == "length"
    assert sum(delta.num_tokens for output in cut for delta in output.deltas) == 3
    free = _texts(await _outputs(engine, _request()))[0]
    word = free.split(" ")[1]
    sampling = Sampling(max_tokens=16, temperature=0.0, stop=[f" {word}"])
    stopped = await _outputs(engine, _request(sampling=sampling))
    assert _texts(stopped)[0] == free[: free.index(f" {word}")]
    assert stopped[-1].deltas[0].finish_reason == "stop"


async def test_max_tokens_is_bounded_by_the_room(engine: Engine) -> None:
    sampling = Sampling(max_tokens=10_000, temperature=0.0, ignore_eos=True)
    request = _request(text="word " * 480 + "[[tokens: 10000]]", sampling=sampling, is_streaming=False)
    (output,) = await _outputs(engine, request)
    assert output.deltas[0].finish_reason == "length"
    assert output.num_prompt_tokens + output.deltas[0].num_tokens <= 512


async def test_logprobs(engine: Engine) -> None:
    sampling = Sampling(max_tokens=4, temperature=0.0, num_logprobs=2)
    outputs = await _outputs(engine, _request(sampling=sampling))
    entries = [entry for output in outputs for delta in output.deltas for entry in delta.logprobs or ()]
    assert "".join(entry.token for entry in entries) == _texts(outputs)[0]
    for entry in entries:
        assert entry.logprob <= 0
        assert [top.logprob for top in entry.top] == sorted((top.logprob for top in entry.top), reverse=True)
        assert len(entry.top) == 2
        assert entry.top[0].token == entry.token  # greedy


async def test_json_by_schema(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    outputs = await _outputs(
        engine, _request(response_format=wanted, sampling=Sampling(max_tokens=60, temperature=0.0))
    )
    assert json.loads(_texts(outputs)[0])["city"] in ("Paris", "Rome")
    wanted["json_schema"] = {"name": "x", "schema": {"type": "nonsense"}}
    with pytest.raises(InvalidRequest):
        await _outputs(engine, _request(response_format=wanted))


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_named_tool(engine: Engine, is_streaming: bool) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    chat = ChatInput(messages=CHAT.messages, tools=[TOOL], tool_choice=choice)
    sampling = Sampling(max_tokens=80, temperature=0.0)
    outputs = await _outputs(engine, _request(chat=chat, sampling=sampling, is_streaming=is_streaming))
    calls = [call for output in outputs for delta in output.deltas for call in delta.tool_calls or ()]
    assert [call.name for call in calls if call.name] == ["get_weather"]
    assert all(call.id for call in calls if call.name)
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Paris"}
    assert outputs[-1].deltas[-1].finish_reason in ("tool_calls", "stop")


async def test_too_long_a_prompt_names_both_numbers(engine: Engine) -> None:
    with pytest.raises(ContextLengthExceeded) as raised:
        await _outputs(engine, _request(text="word " * 700, prompt_param="prompt"))
    assert "512 tokens" in raised.value.message
    assert "70" in raised.value.message
    assert raised.value.param == "prompt"
    assert _texts(await _outputs(engine, _request()))[0]  # and it goes on


async def test_closing_aborts_and_the_engine_goes_on(engine: Engine) -> None:
    for _ in range(3):
        sampling = Sampling(max_tokens=400, temperature=0.0, ignore_eos=True)
        stream = engine.generate(_request(text="Count. [[tokens: 400]] [[delay: 0.01]]", sampling=sampling))
        await anext(stream)
        await stream.aclose()
    endless = _request(text="Count. [[tokens: 400]] [[delay: 0.01]]", sampling=sampling)
    task = asyncio.create_task(_outputs(engine, endless))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _texts(await _outputs(engine, _request()))[0]


async def test_many_at_once_are_as_one_by_one(engine: Engine) -> None:
    chats = [ChatInput(messages=[{"role": "user", "content": f"Name the number {number}."}]) for number in range(6)]
    together = await asyncio.gather(*(_outputs(engine, _request(chat=chat)) for chat in chats))
    apart = [await _outputs(engine, _request(chat=chat)) for chat in chats]
    same = [_texts(one) == _texts(other) for one, other in zip(together, apart, strict=True)]
    assert sum(same) >= 5  # kernels may round differently by batch; answers must not get mixed up


class TestScripted:
    """What only the scripted engine can be told."""

    async def test_it_fails_where_told(self) -> None:
        engine = ScriptedEngine("m")
        await engine.start()
        stream = engine.generate(_request(text="[[fail: 2]]"))
        outputs = [await anext(stream), await anext(stream)]
        with pytest.raises(GenerationFailed):
            await anext(stream)
        assert len(outputs) == 2
        assert engine.num_running == 0

    async def test_it_says_what_it_is_told_and_dies_when_told(self) -> None:
        deaths: list[bool] = []
        engine = ScriptedEngine("m", die=lambda: deaths.append(True))
        await engine.start()
        assert _texts(await _outputs(engine, _request(text="[[say: one two]] [[die]]"))) == ["one two"]
        assert deaths == [True]
        await _outputs(engine, _request(text="[[sick]]"))
        with pytest.raises(EngineUnavailable):
            await engine.check_health()
