"""Many generations of one model outside the server: steered or plain, with pooled states, as fast as the engine goes.

Runs vLLM with the same extension, scheduler and chat template as the server does. Knows nothing of people or of what
the answers are for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.engines.steering_request import SteeringRequest
from serve.engines.vllm_requests import lora_request
from serve.engines.worker_messages import FloatArray, States, WorkerConfig, engine_settings

MAX_PROMPT_TOKENS = 4096
NO_STEERING = SteeringRequest(pool=True)


@dataclass(frozen=True, slots=True)
class Order:
    """One answer to be generated."""

    prompt: str
    seed: int
    temperature: float = 1.0
    max_tokens: int = 128
    steering: SteeringRequest = NO_STEERING
    instruction: str | None = None  # put before the conversation as a system message
    adapter: str | None = None  # folder of a LoRA
    min_p: float = 0.0  # least share of the likeliest token


@dataclass(frozen=True, eq=False, slots=True)
class Answer:
    """One generated answer."""

    text: str
    token_ids: tuple[int, ...]
    mean_logprob: float  # of its tokens, as the steered model gave them
    is_finished: bool  # ended by itself rather than by max_tokens
    states: FloatArray | None  # (L, H), or (P,) with a projection; None without a token fed back


class Generator:
    """A running engine; made by `running`."""

    def __init__(self, llm: Any, tokenizer: Any) -> None:
        self._llm = llm
        self._tokenizer = tokenizer
        self._num_sent = 0

    async def configure(self, config: WorkerConfig) -> None:
        """Set what is read and what can be added."""
        await self._llm.collective_rpc("configure", args=(config.to_message(),))

    async def read_layers(self, layers: Sequence[int]) -> None:
        """Read the raw mean states of some layers, and steer nothing."""
        nothing = np.zeros((self._llm.model_config.get_hidden_size(), 1), np.float32)
        await self.configure(WorkerConfig(tuple(layers), layers[0], nothing, 0.0))

    async def answers(self, orders: Sequence[Order]) -> list[Answer]:
        """Generate all orders at once, in order; the engine batches them."""
        from vllm import SamplingParams  # noqa: PLC0415 - seconds

        ids = [f"job-{self._num_sent + i}" for i in range(len(orders))]
        self._num_sent += len(orders)

        async def one(request_id: str, order: Order) -> Any:
            params = SamplingParams(
                max_tokens=order.max_tokens,
                temperature=order.temperature,
                seed=order.seed,
                min_p=order.min_p,
                logprobs=0,
                extra_args=order.steering.to_extra_args(),
            )
            last = None
            lora = lora_request(order.adapter)
            async for last in self._llm.generate(self._tokens(order), params, request_id, lora_request=lora):  # noqa: B007
                pass
            return last

        finished = await asyncio.gather(*map(one, ids, orders))
        states = await self._states(ids)
        return [_answer(output.outputs[0], states.get(name)) for name, output in zip(ids, finished, strict=True)]

    async def score(self, order: Order, text: str) -> float:
        """Return the mean log-probability of a text's tokens as an unsteered answer to the order's prompt."""
        from vllm import SamplingParams  # noqa: PLC0415

        head = self._tokens(order)["prompt_token_ids"]
        tail = self._tokenizer(text, add_special_tokens=False)["input_ids"][: order.max_tokens]
        if not tail:
            return 0.0
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        self._num_sent += 1
        last: Any = None
        async for last in self._llm.generate({"prompt_token_ids": head + tail}, params, f"job-{self._num_sent}"):  # noqa: B007
            pass
        found = last.prompt_logprobs[len(head) :]
        return float(np.mean([found[i][token].logprob for i, token in enumerate(tail)]))

    async def read(self, prompt: str, texts: Sequence[str]) -> FloatArray:
        """Return the states (n, L, H), or (n, P), of texts as answers to one prompt, without generating any.

        A text beyond the engine's length is read up to there. Raises ValueError for a text without a token.
        """
        from vllm import SamplingParams  # noqa: PLC0415

        head = self._tokens(Order(prompt, seed=0))["prompt_token_ids"]
        room = MAX_PROMPT_TOKENS - len(head) - 1
        tails = [self._tokenizer(text, add_special_tokens=False)["input_ids"][:room] for text in texts]
        if not all(tails):
            raise ValueError(f"text {tails.index([])} has no token to read; leave empty texts out")
        ids = [f"job-{self._num_sent + i}" for i in range(len(texts))]
        self._num_sent += len(texts)
        # States of cached tokens are not computed, so not seen.
        params = SamplingParams(
            max_tokens=1,
            skip_reading_prefix_cache=True,
            extra_args=SteeringRequest(pool=True, pool_from=len(head)).to_extra_args(),
        )

        async def one(request_id: str, tail: list[int]) -> None:
            async for _ in self._llm.generate({"prompt_token_ids": head + tail}, params, request_id):
                pass

        await asyncio.gather(*map(one, ids, tails))
        states = await self._states(ids)
        return np.stack([states[name] for name in ids])

    def _tokens(self, order: Order) -> dict[str, list[int]]:
        messages = [{"role": "user", "content": order.prompt}]
        if order.instruction is not None:
            messages.insert(0, {"role": "system", "content": order.instruction})
        text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return {"prompt_token_ids": list(self._tokenizer(text, add_special_tokens=False)["input_ids"])}

    async def _states(self, ids: list[str]) -> dict[str, FloatArray]:
        replies = await self._llm.collective_rpc("read_states", args=(ids,))
        await self._llm.collective_rpc("free_states", args=(ids,))
        states = States.from_message(replies[0])
        return {name: states.values[name] for name, count in states.counts.items() if count > 0}


def _answer(output: Any, states: FloatArray | None) -> Answer:
    num_tokens = max(len(output.token_ids), 1)
    return Answer(
        text=output.text,
        token_ids=tuple(output.token_ids),
        mean_logprob=float(output.cumulative_logprob or 0.0) / num_tokens,
        is_finished=output.finish_reason == "stop",
        states=states,
    )


@asynccontextmanager
async def running(
    path: str, layers: Sequence[int], *, max_num_seqs: int = 64, max_lora_rank: int = 0
) -> AsyncIterator[Generator]:
    """Start an engine with taps at `layers` (20 s to minutes), and end it afterwards.

    With a `max_lora_rank` orders may name adapters up to that rank.
    """
    environment = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2"),
    }
    os.environ.update(environment)
    from transformers import AutoTokenizer  # noqa: PLC0415 - seconds; must follow the environment
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    loras: dict[str, Any] = {}
    if max_lora_rank:
        loras = {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 8, "max_lora_rank": max_lora_rank}
    arguments = AsyncEngineArgs(
        model=path,
        enforce_eager=True,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=MAX_PROMPT_TOKENS,
        max_model_len=MAX_PROMPT_TOKENS,
        # On a CPU vLLM ends when a seeded request's prompt comes in chunks: it takes back a draw, which a CPU's
        # generator cannot.
        enable_chunked_prefill=False,
        load_format="safetensors",
        **engine_settings(layers),
        **loras,
    )
    llm = AsyncLLM.from_engine_args(arguments)
    try:
        yield Generator(llm, AutoTokenizer.from_pretrained(path))
    finally:
        await asyncio.to_thread(llm.shutdown)
