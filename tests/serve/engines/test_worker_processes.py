"""The extension as it is served: the front end, the engine's core and its worker in three processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from serve.engines.steering_request import SteeringRequest
from serve.engines.worker_messages import States, WorkerConfig, engine_settings

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

H, BLOCK_SIZE = 576, 32
PROMPT = "To bake bread at home you need flour, water, salt and yeast. " * 4 + "First of all,"
STEERING = SteeringRequest((1.0,), 0.3, pool=True)


@pytest_asyncio.fixture
async def llm(default_model: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=default_model,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=8,
        block_size=BLOCK_SIZE,
        **engine_settings([14]),
    )
    llm = AsyncLLM.from_engine_args(arguments)
    yield llm
    await asyncio.to_thread(llm.shutdown)


async def generate(llm: Any, request_id: str, prompt: Any, steering: SteeringRequest | None, max_tokens: int) -> Any:
    from vllm import SamplingParams

    extra_args = steering.to_extra_args() if steering else None
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, extra_args=extra_args)
    return [output async for output in llm.generate(prompt, params, request_id)][-1]


async def read(llm: Any, *request_ids: str) -> States:
    return States.from_message((await llm.collective_rpc("read_states", args=(list(request_ids),)))[0])


async def stats(llm: Any) -> dict[str, int]:
    counts: dict[str, int] = (await llm.collective_rpc("steering_stats"))[0]
    return counts


async def test_steer_read_abort_and_free(llm: Any) -> None:
    directions = np.random.default_rng(1).standard_normal((H, 1)).astype(np.float32)
    config = WorkerConfig((14,), 14, directions, max_dose=0.3, version="v1")
    await llm.collective_rpc("configure", args=(config.to_message(),))

    long = asyncio.create_task(generate(llm, "long", PROMPT, STEERING, max_tokens=400))
    steered = await generate(llm, "steered", PROMPT, STEERING, max_tokens=70)
    both = await read(llm, "long", "steered", "nobody")
    assert set(both.counts) == {"long", "steered"}
    assert both.counts["steered"] == 69
    assert 0 < both.counts["long"] < 399
    assert all(np.isfinite(value).all() and value.any() for value in both.values.values())

    long.cancel()  # as when the client leaves
    with pytest.raises(asyncio.CancelledError):
        await long
    prompt = list(steered.prompt_token_ids)
    answer = list(steered.outputs[0].token_ids)
    stranger = await generate(llm, "stranger", {"prompt_token_ids": prompt + answer}, None, max_tokens=8)
    assert stranger.num_cached_tokens == len(prompt) // BLOCK_SIZE * BLOCK_SIZE
    assert await stats(llm) == {"num_live": 0, "num_rows_used": 0, "num_finished": 2, "num_rejected": 0}
    await llm.collective_rpc("free_states", args=(["long", "steered"],))
    assert (await stats(llm))["num_finished"] == 0
