"""`POST /v1/chat/completions`: OpenAI's chat, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from openai.types.chat import ChatCompletion

from serve.api.context import ApiContext, context_of, error_responses
from serve.api.limits import admit_users, metered
from serve.api.requests import ChatCompletionRequest, NamedToolChoice, PalateOptions
from serve.api.streaming import Events, event, event_stream, json_response, while_connected
from serve.api.strict_json import StrictJsonRoute
from serve.engines.protocol import ChatInput, Delta, GenerationRequest, Output, Sampling, TokenLogprob, ToolCallDelta
from serve.errors import InvalidRequest
from serve.pipeline import Answer
from serve.planning import Options
from serve.report import Report

DEGRADED_HEADER = "X-Palate-Degraded"  # names what was away, so that the answer is the base model's

router = APIRouter(tags=["chat"], route_class=StrictJsonRoute)


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    responses={
        200: {"model": ChatCompletion, "description": "The answer; with `stream: true`, server-sent events of chunks."},
        **error_responses(400, 401, 403, 404, 413, 429, 500, 503),
    },
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Answer a conversation, in OpenAI's shape."""
    context = context_of(request)
    generation = to_generation(body, context)
    wishes = body.palate or PalateOptions()
    persons = context.persons(request, (body.safety_identifier, body.user), wishes.users)
    await admit_users(request, persons)
    if context.config.feedback.implicit and context.desk is not None and len(persons) == 1 and generation.chat:
        context.desk.overhear_later(persons[0], generation.chat.messages)
    answer = await context.pipeline.answer(generation, persons, to_options(wishes))
    answer.outputs = metered(request, answer.outputs)
    headers = {DEGRADED_HEADER: answer.report.degraded} if answer.report.degraded else {}
    if body.stream:
        events = _chunks(body, generation, context, answer.report)
        return await event_stream(request, answer.outputs, events, headers)
    plain = await while_connected(request, _completion(body, generation, context, answer))
    return json_response(plain, headers=headers)


def to_options(wishes: PalateOptions) -> Options:
    """Translate the body's `palate`."""
    return Options(
        best_of=wishes.best_of,
        strength=wishes.strength,
        weights=wishes.weights,
        aggregate=wishes.aggregate,
        explore=wishes.explore,
        explain=wishes.explain,
        is_off=wishes.off,
        is_halving=wishes.halving,
    )


def to_generation(body: ChatCompletionRequest, context: ApiContext) -> GenerationRequest:
    """Translate the body, checking the operator's bounds."""
    context.check_model(body.model)
    num_choices = context.check_num_choices(body.n)
    if len(body.messages) > context.config.http.max_messages:
        raise InvalidRequest(f"At most {context.config.http.max_messages} messages are accepted.", param="messages")
    choice = body.tool_choice
    return GenerationRequest(
        request_id=context.new_id("chatcmpl"),
        chat=ChatInput(
            messages=[message.rendered() for message in body.messages],
            tools=[tool.model_dump(exclude_none=True) for tool in body.tools] if body.tools else None,
            tool_choice=choice.model_dump() if isinstance(choice, NamedToolChoice) else choice,
            parallel_tool_calls=body.parallel_tool_calls is not False,
        ),
        sampling=Sampling(
            n=num_choices,
            max_tokens=body.max_completion_tokens or body.max_tokens,
            num_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            **common_sampling(body),
        ),
        response_format=response_format(body),
        is_streaming=bool(body.stream),
        prompt_param="messages",
    )


def common_sampling(body: Any) -> dict[str, Any]:
    """Translate what chat and text completions share."""
    return {
        "min_tokens": body.min_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "repetition_penalty": body.repetition_penalty,
        "logit_bias": body.logit_bias,
        "seed": body.seed,
        "stop": body.stops,
        "ignore_eos": body.ignore_eos,
    }


def response_format(body: Any) -> dict[str, Any] | None:
    """Return the format's plain form, or None for text."""
    if body.response_format is None or body.response_format.type == "text":
        return None
    plain: dict[str, Any] = body.response_format.model_dump(exclude_none=True, by_alias=True)
    return plain


def usage(num_prompt_tokens: int, num_cached_tokens: int, num_completion_tokens: int) -> dict[str, Any]:
    """Render OpenAI's usage object."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion_tokens,
        "total_tokens": num_prompt_tokens + num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached_tokens},
    }


async def _completion(
    body: ChatCompletionRequest, generation: GenerationRequest, context: ApiContext, answer: Answer
) -> dict[str, Any]:
    choices: list[dict[str, Any]] = [{} for _ in range(generation.sampling.n)]
    num_prompt_tokens = num_cached_tokens = num_completion_tokens = 0
    async for output in answer.outputs:
        num_prompt_tokens, num_cached_tokens = output.num_prompt_tokens, output.num_cached_tokens
        for delta in output.deltas:
            num_completion_tokens += delta.num_tokens
            choices[delta.index] = _whole_choice(delta, has_logprobs=bool(body.logprobs))
    return {
        "id": generation.request_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": context.config.model.name,
        "choices": choices,
        "usage": usage(num_prompt_tokens, num_cached_tokens, num_completion_tokens),
        "system_fingerprint": context.fingerprint,
        "palate": answer.report.to_json(),
    }


def _whole_choice(delta: Delta, *, has_logprobs: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": delta.text, "refusal": None}
    if delta.reasoning:
        message["reasoning"] = delta.reasoning
    if delta.tool_calls:
        message["content"] = delta.text or None
        message["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {"name": call.name or "", "arguments": call.arguments},
            }
            for call in delta.tool_calls
        ]
    return {
        "index": delta.index,
        "message": message,
        "logprobs": {"content": logprob_content(delta.logprobs), "refusal": None} if has_logprobs else None,
        "finish_reason": delta.finish_reason or "stop",
    }


def _chunks(body: ChatCompletionRequest, generation: GenerationRequest, context: ApiContext, report: Report) -> Events:
    head = {
        "id": generation.request_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": context.config.model.name,
        "system_fingerprint": context.fingerprint,
    }
    has_usage = bool(body.stream_options and body.stream_options.include_usage)

    async def events(outputs: AsyncIterator[Output]) -> AsyncIterator[bytes]:
        is_first = True
        num_completion_tokens = 0
        output: Output | None = None
        closing: dict[str, Any] | None = None  # the last choice's end waits for the report, complete once all is done
        async for output in outputs:
            if is_first:
                is_first = False
                opening: dict[str, Any] = {"role": "assistant", "content": ""}
                for index in range(generation.sampling.n):
                    yield event({**head, "choices": [_chunk_choice(index, opening)]})
            for delta in output.deltas:
                num_completion_tokens += delta.num_tokens
                chunk = {**head, "choices": [_delta_choice(delta, has_logprobs=bool(body.logprobs))]}
                if delta.finish_reason is None:
                    yield event(chunk)
                    continue
                if closing is not None:
                    yield event(closing)
                closing = chunk
        if closing is not None:
            yield event({**closing, "palate": report.to_json()} if report.is_worth_telling else closing)
        if has_usage and output is not None:
            counts = usage(output.num_prompt_tokens, output.num_cached_tokens, num_completion_tokens)
            yield event({**head, "choices": [], "usage": counts})

    return events


def _chunk_choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _delta_choice(delta: Delta, *, has_logprobs: bool) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if delta.text:
        content["content"] = delta.text
    if delta.reasoning:
        content["reasoning"] = delta.reasoning
    if delta.tool_calls:
        content["tool_calls"] = [_tool_call_delta(call) for call in delta.tool_calls]
    return {
        "index": delta.index,
        "delta": content,
        "logprobs": {"content": logprob_content(delta.logprobs), "refusal": None} if has_logprobs else None,
        "finish_reason": delta.finish_reason,
    }


def _tool_call_delta(call: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    rendered: dict[str, Any] = {"index": call.index, "function": function}
    if call.name:
        function["name"] = call.name
    if call.id:
        rendered |= {"id": call.id, "type": "function"}
    return rendered


def logprob_content(logprobs: list[TokenLogprob] | None) -> list[dict[str, Any]]:
    """Render chat logprobs."""
    return [
        {
            **_token(entry.token, entry.logprob),
            "top_logprobs": [_token(top.token, top.logprob) for top in entry.top],
        }
        for entry in logprobs or ()
    ]


def _token(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", errors="replace"))}
