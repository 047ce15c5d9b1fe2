"""What every engine must do; each runs through the same checks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
import torch

from router.mixture import Mixture
from serve.config import EngineConfig, ModelConfig
from serve.engines.best_of import generate
from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import (
    BestOf,
    ChatInput,
    Engine,
    EngineArm,
    GenerationRequest,
    MeasureRequest,
    Output,
    Readout,
    Sampling,
    Verdict,
)
from serve.engines.scripted_engine import ScriptedEngine
from serve.engines.tilt import TokenTilt
from serve.engines.worker_messages import Projection, TokenFeatures
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
        engine = VllmEngine(model, EngineConfig(cpu_kv_cache_gib=1, max_num_seqs=16), path, _random_space())
    with pytest.raises(EngineUnavailable):
        await engine.check_health()
    await engine.start()
    yield engine
    await engine.shutdown()
    await engine.shutdown()  # safe twice
    with pytest.raises(EngineUnavailable):
        await engine.check_health()


def _random_space() -> FeatureSpace:
    """A space of the default model with nothing learned in it."""
    rng = np.random.default_rng(7)
    basis = (rng.normal(size=(8, 1_152)) / 34).astype(np.float32)
    projection = Projection(basis, np.zeros(1_152, np.float32), np.ones(1_152, np.float32))
    directions = rng.normal(size=(576, 8)).astype(np.float32)
    tokens = np.array([30, 198, 28, 260, 253, 288, 282, 284, 314, 42, 29, 338, 281, 346, 351])  # frequent ones
    frequent = TokenFeatures(
        tokens, np.full(len(tokens), 0.02, np.float32), rng.normal(size=(len(tokens), 8)).astype(np.float32)
    )
    return FeatureSpace(DEFAULT_MODEL.name, (14, 21), 14, projection, directions, max_dose=0.4, token_features=frequent)


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


async def test_many_long_prompts_with_seeds_at_once(engine: Engine) -> None:
    """More than one step can read: a prompt read in parts must not cost a seeded request, or the engine, its life."""
    requests = [
        _request(
            chat=ChatInput([{"role": "user", "content": f"{number} " + "apples and pears " * 130}]),
            sampling=Sampling(max_tokens=4, seed=number, temperature=1.0),
        )
        for number in range(12)
    ]
    answers = await asyncio.gather(*(_outputs(engine, request) for request in requests))
    assert all(answer[-1].deltas[-1].finish_reason for answer in answers)
    await engine.check_health()


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


BASE = EngineArm()
SAMPLING = Sampling(max_tokens=40, temperature=1.0, seed=5, ignore_eos=True)


def _steered(engine: Engine, direction: int, sign: float = 1.0, dose: float = 0.4) -> EngineArm:
    space = engine.feature_space
    assert space is not None
    return EngineArm(tuple(sign * float(row == direction) for row in range(space.num_features)), dose)


def _judge(engine: Engine, *, sign: float = 1.0, doubt: float = 1e-4) -> BestOf:
    """Somebody who likes the first feature, and nothing else."""
    space = engine.feature_space
    assert space is not None
    size = space.num_features
    mean = np.zeros((1, size))
    mean[0, 0] = sign * 10.0
    mixture = Mixture(np.ones(1), mean, doubt * np.eye(size)[None])
    return BestOf(Readout(np.eye(size), np.zeros(size), np.ones(size)), (mixture,))


async def _answers(engine: Engine, request: GenerationRequest) -> tuple[list[str], Verdict, list[Output]]:
    outputs = [output async for output in generate(engine, request)]
    verdict = outputs[-1].verdict
    assert verdict is not None
    assert all(output.verdict is None for output in outputs[:-1])
    return _texts(outputs, len(verdict.order)), verdict, outputs


async def test_the_base_arm_is_the_engine_without_arms(engine: Engine) -> None:
    plain = _texts(await _outputs(engine, _request(sampling=SAMPLING)))
    (alone,), verdict, _ = await _answers(engine, _request(sampling=SAMPLING, arms=(BASE,), best_of=BestOf()))
    assert [alone] == plain
    assert verdict.order == [0]
    assert np.isfinite(verdict.features_array()).all()


async def test_base_arms_are_the_choices_of_one_request(engine: Engine) -> None:
    many = msgspec.structs.replace(SAMPLING, n=3)
    plain = _texts(await _outputs(engine, _request(sampling=many)), 3)
    request = _request(sampling=SAMPLING, arms=(BASE,) * 3, best_of=BestOf(num_best=3))
    texts, verdict, _ = await _answers(engine, request)
    assert texts == plain
    assert verdict.order == [0, 1, 2]


@pytest.mark.parametrize("is_streaming", [True, False])
async def test_the_arm_the_judge_likes_best_is_served(engine: Engine, is_streaming: bool) -> None:
    arms = (BASE, *(_steered(engine, 0, sign) for sign in (1.0, -1.0)), BASE)
    chosen: dict[float, int] = {}
    for sign in (1.0, -1.0):
        request = _request(sampling=SAMPLING, arms=arms, best_of=_judge(engine, sign=sign), is_streaming=is_streaming)
        (text,), verdict, outputs = await _answers(engine, request)
        rewards = sign * 10.0 * verdict.features_array()[:, 0]
        (winner,) = verdict.order
        assert winner == np.argmax(rewards)
        np.testing.assert_allclose(verdict.rewards, rewards - rewards[0], atol=1e-3)
        assert verdict.num_tokens == [40] * 4
        assert sum(d.num_tokens for output in outputs for d in output.deltas) == 40
        assert text
        chosen[sign] = winner
    assert chosen[1.0] != chosen[-1.0]


async def test_the_best_n_come_in_order(engine: Engine) -> None:
    arms = (BASE, *(_steered(engine, direction) for direction in (0, 1, 2)))
    rules = dataclasses.replace(_judge(engine), num_best=3)
    texts, verdict, outputs = await _answers(engine, _request(sampling=SAMPLING, arms=arms, best_of=rules))
    assert len(texts) == 3
    assert all(texts)
    rewards = [verdict.rewards[arm] for arm in verdict.order]
    assert rewards == sorted(rewards, reverse=True)
    ends = [d for output in outputs for d in output.deltas if d.finish_reason is not None]
    assert sorted(d.index for d in ends) == [0, 1, 2]


async def test_losers_leave_at_checkpoints_and_the_survivor_streams_from_there(engine: Engine) -> None:
    arms = (BASE, *(_steered(engine, direction % 4, 1.0 - direction % 2) for direction in range(7)))
    rules = dataclasses.replace(_judge(engine), checkpoints=(4, 8, 16))
    request = _request(sampling=SAMPLING, arms=arms, best_of=rules)
    (text,), verdict, outputs = await _answers(engine, request)
    assert sum(verdict.num_tokens) < 8 * 40 * 0.6
    assert max(verdict.num_tokens) == 40
    assert verdict.num_tokens[verdict.order[0]] == 40
    assert len(outputs) > 10, "the survivor streams"
    assert all(np.isfinite(verdict.rewards)), "everyone has been scored before leaving"
    again = msgspec.structs.replace(request, request_id="again")
    (repeated,), second, _ = await _answers(engine, again)
    assert (repeated, second.order) == (text, verdict.order)
    whole = msgspec.structs.replace(request, request_id="whole", is_streaming=False)
    (joined,), third, last = await _answers(engine, whole)
    assert (joined, third.order) == (text, verdict.order)
    assert len(last) == 1


async def test_choosing_and_measuring_wait_for_no_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """States come with the tokens: asking for them would wait for the step of whoever else is served."""
    if isinstance(engine, ScriptedEngine):
        pytest.skip("the scripted engine has no steps to wait for")
    llm, asked = engine._llm, []  # type: ignore[attr-defined]
    ask = llm.collective_rpc

    async def noting(method: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(method)
        return await ask(method, *args, **kwargs)

    monkeypatch.setattr(llm, "collective_rpc", noting)
    arms = (BASE, *(_steered(engine, direction) for direction in (0, 1, 2)))
    for checkpoints in ((), (4, 8)):
        rules = dataclasses.replace(_judge(engine), checkpoints=checkpoints)
        await _answers(engine, _request(sampling=SAMPLING, arms=arms, best_of=rules))
    await engine.measure(MeasureRequest("unasked", ["Paris.", "It is Paris, of course."], chat=CHAT))
    assert "read_states" not in asked


async def test_an_arm_may_draw_likely_tokens_alone(engine: Engine) -> None:
    if isinstance(engine, ScriptedEngine):
        pytest.skip("the scripted engine draws nothing")
    steered, rules = _steered(engine, 0), BestOf(num_best=2)
    surest = dataclasses.replace(steered, min_p=1.0)
    (base, drawn), *_ = await _answers(engine, _request(sampling=SAMPLING, arms=(BASE, surest), best_of=rules))
    greedy = msgspec.structs.replace(SAMPLING, temperature=0.0)
    (_, likeliest), *_ = await _answers(engine, _request(sampling=greedy, arms=(BASE, steered), best_of=rules))
    assert drawn == likeliest
    (untouched, free), *_ = await _answers(engine, _request(sampling=SAMPLING, arms=(BASE, steered), best_of=rules))
    assert untouched == base
    assert free != drawn


async def test_an_arm_may_repeat_less_and_nobody_else_does(engine: Engine) -> None:
    if isinstance(engine, ScriptedEngine):
        pytest.skip("the scripted engine draws nothing")
    sampling = msgspec.structs.replace(SAMPLING, temperature=0.0, max_tokens=48, ignore_eos=True)
    free, rules = _steered(engine, 0), BestOf(num_best=3)
    fresh = dataclasses.replace(free, repetition_penalty=2.0)
    (base, said), *_ = await _answers(
        engine, _request(sampling=sampling, arms=(BASE, free), best_of=BestOf(num_best=2))
    )
    texts, *_ = await _answers(engine, _request(sampling=sampling, arms=(BASE, free, fresh), best_of=rules))
    assert texts[:2] == [base, said]
    assert _longest_repeat(texts[2]) < _longest_repeat(said)
    own = msgspec.structs.replace(sampling, repetition_penalty=1.5)
    asked = [
        await _answers(engine, _request(sampling=own, arms=(BASE, arm), best_of=BestOf(num_best=2)))
        for arm in (free, fresh)
    ]
    assert asked[0][0] == asked[1][0]  # the request's own penalty goes before the arm's


async def test_an_arm_may_be_tilted_and_nobody_else_is(engine: Engine) -> None:
    if isinstance(engine, ScriptedEngine):
        pytest.skip("the scripted engine draws nothing")
    assert engine.feature_space is not None
    found = engine.feature_space.token_features
    assert found is not None
    sampling = msgspec.structs.replace(SAMPLING, temperature=0.0, max_tokens=32, ignore_eos=True)
    coeffs = tuple(map(float, np.eye(engine.feature_space.num_features)[0]))
    hardly = EngineArm(coeffs, dose=1e-6)
    tilted, rules = dataclasses.replace(hardly, tilt=1.0), BestOf(num_best=3)
    texts, *_ = await _answers(engine, _request(sampling=sampling, arms=(BASE, hardly, tilted), best_of=rules))
    assert texts[0] == texts[1]
    bias = TokenTilt(found, torch.device("cpu")).bias(coeffs, 1.0).tolist()
    by_hand = msgspec.structs.replace(
        sampling, logit_bias={str(token): value for token, value in zip(found.tokens.tolist(), bias, strict=True)}
    )
    assert _texts(await _outputs(engine, _request(sampling=by_hand))) == [texts[2]]
    assert texts[2] != texts[0]


def _longest_repeat(text: str) -> int:
    """Most often that one word stands in a text."""
    words = text.split()
    return max(words.count(word) for word in words)


async def test_doubt_keeps_the_base(engine: Engine) -> None:
    arms = (BASE, _steered(engine, 0), _steered(engine, 1))
    rules = dataclasses.replace(_judge(engine, doubt=1e6), gate=0.95)
    _, verdict, _ = await _answers(engine, _request(sampling=SAMPLING, arms=arms, best_of=rules))
    assert verdict.order == [0]
    assert verdict.reason in ("gate", "base_best")


async def test_tools_logprobs_and_schemas_survive_the_choice(engine: Engine) -> None:
    schema = {
        "type": "json_schema",
        "json_schema": {
            "name": "x",
            "schema": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]},
        },
    }
    sampling = Sampling(max_tokens=40, temperature=0.0, num_logprobs=2)
    rules = dataclasses.replace(_judge(engine), checkpoints=(2, 4))
    arms = (BASE, _steered(engine, 0), _steered(engine, 1), _steered(engine, 2))
    for is_streaming in (True, False):
        request = _request(
            sampling=sampling, arms=arms, best_of=rules, response_format=schema, is_streaming=is_streaming
        )
        (text,), _, outputs = await _answers(engine, request)
        assert json.loads(text).keys() == {"a"}
        deltas = [d for output in outputs for d in output.deltas]
        assert sum(len(d.logprobs or ()) for d in deltas) == sum(d.num_tokens for d in deltas)
        chat = ChatInput(
            CHAT.messages, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "get_weather"}}
        )
        request = _request(
            sampling=Sampling(max_tokens=96, temperature=0.0),
            chat=chat,
            arms=arms,
            best_of=rules,
            is_streaming=is_streaming,
        )
        _, _, outputs = await _answers(engine, request)
        calls = [call for output in outputs for d in output.deltas for call in d.tool_calls or ()]
        assert calls[0].name == "get_weather"
        assert json.loads("".join(call.arguments for call in calls)).keys() == {"city"}


async def test_leaving_aborts_every_arm(engine: Engine) -> None:
    rules = dataclasses.replace(_judge(engine), checkpoints=(2,))
    sampling = msgspec.structs.replace(SAMPLING, max_tokens=400)
    chat = ChatInput([{"role": "user", "content": "Tell me more. [[tokens: 400]]"}])
    stream = generate(engine, _request(sampling=sampling, chat=chat, arms=(BASE,) * 4, best_of=rules))
    await anext(stream)
    await stream.aclose()
    (text,), _, _ = await _answers(engine, _request(sampling=SAMPLING, arms=(BASE,), best_of=BestOf()))
    assert text


async def test_given_answers_measure_as_generated_ones_do(engine: Engine) -> None:
    request = _request(sampling=SAMPLING, arms=(BASE, _steered(engine, 0)), best_of=BestOf(num_best=2))
    texts, verdict, _ = await _answers(engine, request)
    measured = await engine.measure(MeasureRequest("m1", [*texts, ""], chat=CHAT))
    assert measured.feature_space == verdict.feature_space
    assert measured.counts[2] == 0
    assert np.isnan(measured.values[2]).all()
    generated = verdict.features_array()
    again = await engine.measure(MeasureRequest("m2", texts[::-1], chat=CHAT))
    np.testing.assert_array_equal(again.values, measured.values[:2][::-1])
    # The last token of a generated answer is not measured; of a given one it is.
    scale = np.abs(generated).mean()
    assert np.abs(measured.values[:2] - generated).mean() < 0.15 * scale
    swapped = np.abs(measured.values[:2] - generated[::-1]).mean()
    assert np.abs(measured.values[:2] - generated).mean() < 0.5 * swapped
    again = await engine.measure(MeasureRequest("m2", [texts[0]], chat=CHAT))
    np.testing.assert_allclose(again.values[0], measured.values[0], atol=0.05 * scale)
