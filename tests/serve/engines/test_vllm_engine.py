"""What the vLLM engine does around vLLM's calls, with something in vLLM's place."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serve.config import EngineConfig, ModelConfig
from serve.engines.protocol import GenerationRequest, MeasureRequest, ModelInfo
from serve.engines.vllm_engine import VllmEngine
from serve.engines.worker_messages import Reading
from serve.errors import ContextLengthExceeded
from tests.serve.artifacts_for_tests import make_space


class _Tokenizer:
    """A token a word, one text at a time; notes which thread read what."""

    def __init__(self) -> None:
        self.read: list[tuple[str, int]] = []
        self._reading = threading.Semaphore(1)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        assert self._reading.acquire(blocking=False), "two at a time"
        self.read.append((text, threading.get_ident()))
        threading.Event().wait(0.001)
        self._reading.release()
        return [len(word) for word in text.split()]


async def test_given_answers_are_tokenized_off_the_event_loop_up_to_the_first_too_long() -> None:
    engine, tokenizer = VllmEngine(ModelConfig(), EngineConfig(), "nowhere"), _Tokenizer()
    engine._llm = SimpleNamespace(renderer=SimpleNamespace(tokenizer=tokenizer))
    several = await asyncio.gather(*(engine._tokenized(["a bb", "", "ccc"], 6, 10) for _ in range(4)))
    assert several == [[[1, 2], [], [3]]] * 4
    assert threading.get_ident() not in {thread for _, thread in tokenizer.read}
    tokenizer.read.clear()
    with pytest.raises(ContextLengthExceeded, match="10 tokens"):
        await engine._tokenized(["a", "a a a a", "never read"], 6, 10)
    assert [text for text, _ in tokenizer.read] == ["a", "a a a a"]


async def test_states_of_requests_that_end_together_are_freed_by_few_calls() -> None:
    engine, calls, may_answer = VllmEngine(ModelConfig(), EngineConfig(), "nowhere"), list[list[str]](), asyncio.Event()

    async def collective_rpc(method: str, args: tuple[list[str]]) -> list[None]:
        assert method == "free_states"
        calls.append(args[0])
        await may_answer.wait()
        return [None]

    engine._llm = SimpleNamespace(collective_rpc=collective_rpc)
    engine._forget_states(["a", "b"])
    await asyncio.sleep(0)
    for id_ in ("c", "d", "e"):
        engine._forget_states([id_])
    may_answer.set()
    assert engine._forgetting is not None
    await engine._forgetting
    engine._forget_states(["f"])
    await engine._forgetting
    assert calls == [["a", "b"], ["c", "d", "e"], ["f"]]


async def test_a_text_that_many_judge_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    space = make_space("m")
    engine, read = VllmEngine(ModelConfig(), EngineConfig(), "nowhere", space), list[list[int]]()

    async def prepare(request: GenerationRequest) -> Any:
        prompt = [len(word) for word in str(request.text).split()]
        params = SimpleNamespace(clone=SimpleNamespace)
        return SimpleNamespace(engine_input={"prompt_token_ids": prompt}, params=params)

    async def read_through(prompt: Any, params: Any, request_id: str) -> Reading:
        tokens = prompt["prompt_token_ids"]
        read.append(tokens)
        return Reading(space.id, len(tokens), np.full(space.num_features, float(sum(tokens)), np.float32))

    monkeypatch.setattr(engine, "_prepare", prepare)
    monkeypatch.setattr(engine, "_read_through", read_through)
    monkeypatch.setattr(engine, "_forget_states", lambda ids: None)
    engine._llm = SimpleNamespace(renderer=SimpleNamespace(tokenizer=_Tokenizer()))
    engine._model = ModelInfo("m", 100, False, 0)
    first = await engine.measure(MeasureRequest("one", ["a bb", "", "ccc", "a bb"], text="dddd"))
    assert first.counts == (3, 0, 2, 3)
    again = await engine.measure(MeasureRequest("two", ["ccc", "eeeee", "a bb"], text="dddd"))
    assert again.values[:, 0].tolist() == [7.0, 9.0, 7.0]
    assert read == [[4, 1, 2], [4, 3], [4, 5]]  # never the same twice
    await engine.measure(MeasureRequest("three", ["bb"], text="dddd a"))
    assert read[3:] == [[4, 1, 2]]  # the same tokens, but the prompt ends elsewhere
