"""Steer, read, abort and free on vLLM's AsyncLLM, and print what was found as JSON.

A program of its own: vLLM's front end leaves sockets and threads behind that would outlive a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import numpy as np

from serve.engines.steering_request import SteeringRequest
from serve.engines.worker_messages import States, WorkerConfig, engine_settings

H, BLOCK_SIZE = 576, 32
PROMPT = "To bake bread at home you need flour, water, salt and yeast. " * 4 + "First of all,"
STEERING = SteeringRequest((1.0,), 0.3, pool=True)


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


async def probe(llm: Any) -> dict[str, Any]:
    directions = np.random.default_rng(1).standard_normal((H, 1)).astype(np.float32)
    config = WorkerConfig((14,), 14, directions, max_dose=0.3, version="v1")
    await llm.collective_rpc("configure", args=(config.to_message(),))

    long = asyncio.create_task(generate(llm, "long", PROMPT, STEERING, max_tokens=400))
    steered = await generate(llm, "steered", PROMPT, STEERING, max_tokens=70)
    both = await read(llm, "long", "steered", "nobody")
    long.cancel()  # as when the client leaves
    with contextlib.suppress(asyncio.CancelledError):
        await long
    prompt, answer = list(steered.prompt_token_ids), list(steered.outputs[0].token_ids)
    stranger = await generate(llm, "stranger", {"prompt_token_ids": prompt + answer}, None, max_tokens=8)
    after_abort = await stats(llm)
    await llm.collective_rpc("free_states", args=(["long", "steered"],))
    return {
        "version": both.version,
        "counts": both.counts,
        "norms": {name: float(np.linalg.norm(value)) for name, value in both.values.items()},
        "shared_tokens": stranger.num_cached_tokens,
        "prompt_blocks_tokens": len(prompt) // BLOCK_SIZE * BLOCK_SIZE,
        "after_abort": after_abort,
        "after_free": await stats(llm),
    }


async def main(model: str) -> None:
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(
        model=model,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=8,
        block_size=BLOCK_SIZE,
        **engine_settings([14]),
    )
    llm = AsyncLLM.from_engine_args(arguments)
    try:
        print(json.dumps(await probe(llm)))
    finally:
        await asyncio.to_thread(llm.shutdown)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
