"""`POST /v1/completions`: OpenAI's text completions, one or several prompts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from openai.types import Completion

from serve.api.chat import common_sampling, response_format, usage
from serve.api.context import ApiContext, context_of, error_responses
from serve.api.limits import admit_users, metered
from serve.api.requests import CompletionRequest
from serve.api.streaming import Events, event, event_stream, json_response, while_connected
from serve.api.strict_json import StrictJsonRoute
from serve.engines.protocol import Delta, GenerationRequest, Output, Sampling, TokenLogprob
from serve.errors import InvalidRequest

router = APIRouter(tags=["completions"], route_class=StrictJsonRoute)


@router.post(
    "/v1/completions",
    summary="Continue texts",
    responses={
        200: {"model": Completion, "description": "The texts; with `stream: true`, server-sent events of chunks."},
        **error_responses(400, 401, 403, 404, 413, 429, 500, 503),
    },
)
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue one or several texts, in OpenAI's shape."""
    context = context_of(request)
    generations = to_generations(body, context)
    await admit_users(request, context.persons(request, (body.safety_identifier, body.user), []))
    outputs = metered(request, _all(generations, context))
    head = {
        "id": context.new_id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()),
        "model": context.config.model.name,
        "system_fingerprint": context.fingerprint,
    }
    if body.stream:
        return await event_stream(request, outputs, _chunks(body, generations, head))
    return json_response(await while_connected(request, _completion(body, generations, head, outputs)))


def to_generations(body: CompletionRequest, context: ApiContext) -> list[GenerationRequest]:
    """Translate the body into one request a prompt."""
    context.check_model(body.model)
    num_choices = context.check_num_choices(body.n)
    prompts = body.prompts()
    if not 1 <= len(prompts) <= context.config.http.max_prompts:
        raise InvalidRequest(f"Between 1 and {context.config.http.max_prompts} prompts are accepted.", param="prompt")
    if any(not prompt for prompt in prompts):
        raise InvalidRequest("A prompt must not be empty.", param="prompt")
    sampling = Sampling(n=num_choices, max_tokens=body.max_tokens, num_logprobs=body.logprobs, **common_sampling(body))
    return [
        GenerationRequest(
            request_id=context.new_id("cmpl"),
            text=prompt if isinstance(prompt, str) else None,
            token_ids=prompt if isinstance(prompt, list) else None,
            sampling=sampling,
            response_format=response_format(body),
            is_streaming=bool(body.stream),
            prompt_param="prompt",
        )
        for prompt in prompts
    ]


async def _all(generations: list[GenerationRequest], context: ApiContext) -> AsyncGenerator[Output, None]:
    """Run one generation a prompt at the same time; choice indices count through the prompts.

    Counts of prompt tokens are sums over the prompts seen so far.
    """
    queue: asyncio.Queue[tuple[int, Output] | BaseException | None] = asyncio.Queue()
    num_choices = generations[0].sampling.n

    async def run(number: int, generation: GenerationRequest) -> None:
        try:
            async for output in context.service.generate(generation):
                shifted = [
                    msgspec.structs.replace(delta, index=number * num_choices + delta.index) for delta in output.deltas
                ]
                queue.put_nowait((number, msgspec.structs.replace(output, deltas=shifted)))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(run(number, generation)) for number, generation in enumerate(generations)]
    counts: dict[int, tuple[int, int]] = {}
    num_running = len(tasks)
    try:
        while num_running:
            item = await queue.get()
            if item is None:
                num_running -= 1
                continue
            if isinstance(item, BaseException):
                raise item
            number, output = item
            counts[number] = (output.num_prompt_tokens, output.num_cached_tokens)
            num_prompt_tokens, num_cached_tokens = (sum(column) for column in zip(*counts.values(), strict=True))
            yield Output(num_prompt_tokens, num_cached_tokens, output.deltas)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _echo_of(body: CompletionRequest, generations: list[GenerationRequest], index: int) -> str:
    return (generations[index // generations[0].sampling.n].text or "") if body.echo else ""


async def _completion(
    body: CompletionRequest, generations: list[GenerationRequest], head: dict[str, Any], outputs: AsyncIterator[Output]
) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [{} for _ in range(len(generations) * generations[0].sampling.n)]
    num_prompt_tokens = num_cached_tokens = num_completion_tokens = 0
    async for output in outputs:
        num_prompt_tokens, num_cached_tokens = output.num_prompt_tokens, output.num_cached_tokens
        for delta in output.deltas:
            num_completion_tokens += delta.num_tokens
            choices[delta.index] = _choice(body, delta, _echo_of(body, generations, delta.index) + delta.text, 0)
            choices[delta.index]["finish_reason"] = delta.finish_reason or "stop"
    counts = usage(num_prompt_tokens, num_cached_tokens, num_completion_tokens)
    return {**head, "choices": choices, "usage": counts}


def _chunks(body: CompletionRequest, generations: list[GenerationRequest], head: dict[str, Any]) -> Events:
    has_usage = bool(body.stream_options and body.stream_options.include_usage)

    async def events(outputs: AsyncIterator[Output]) -> AsyncIterator[bytes]:
        num_completion_tokens = 0
        offsets: dict[int, int] = {}
        output: Output | None = None
        async for output in outputs:
            for delta in output.deltas:
                num_completion_tokens += delta.num_tokens
                is_first = delta.index not in offsets
                text = (_echo_of(body, generations, delta.index) if is_first else "") + delta.text
                choice = _choice(body, delta, text, offsets.get(delta.index, 0))
                offsets[delta.index] = offsets.get(delta.index, 0) + len(text)
                yield event({**head, "choices": [choice]})
        if has_usage and output is not None:
            counts = usage(output.num_prompt_tokens, output.num_cached_tokens, num_completion_tokens)
            yield event({**head, "choices": [], "usage": counts})

    return events


def _choice(body: CompletionRequest, delta: Delta, text: str, offset: int) -> dict[str, Any]:
    logprobs = _logprobs(delta.logprobs or [], offset) if body.logprobs is not None else None
    return {"index": delta.index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}


def _logprobs(entries: list[TokenLogprob], offset: int) -> dict[str, Any]:
    text_offset = []
    for entry in entries:
        text_offset.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{top.token: top.logprob for top in entry.top} for entry in entries],
        "text_offset": text_offset,
    }
