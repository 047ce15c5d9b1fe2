"""From vLLM's outputs to the engine protocol: text, reasoning, tool calls, log-probabilities.

Tools and reasoning are parsed by vLLM's own parser for the model. Knows nothing of engines' lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve.engines.protocol import Delta, GenerationRequest, TokenLogprob, ToolCallDelta, TopLogprob
from serve.errors import GenerationFailed

MIN_LOGPROB = -9999.0  # JSON has no -inf


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rendered request: vLLM's input and parameters, and one parser a choice where the model has one."""

    engine_input: Any
    params: Any
    chat: Any
    parsers: list[Any]
    tokenizer: Any


def to_delta(
    request: GenerationRequest, prepared: Prepared, completion: Any, index: int, has_called: list[bool]
) -> Delta:
    """Translate what vLLM adds to one choice; `has_called` keeps which choices have called a tool.

    Raises:
        GenerationFailed: vLLM broke it off.
    """
    text = completion.text
    finish_reason = completion.finish_reason
    if finish_reason in ("error", "abort"):
        raise GenerationFailed("The engine broke off this generation.")
    logprobs = None
    if request.sampling.num_logprobs is not None and completion.logprobs is not None:
        logprobs = [
            _token_logprob(token_id, at, request.sampling.num_logprobs, prepared.tokenizer)
            for token_id, at in zip(completion.token_ids, completion.logprobs, strict=True)
        ]
    calls: list[ToolCallDelta] | None = None
    reasoning = None
    if prepared.parsers:
        text, reasoning, calls = _parse(request, prepared, completion)
        has_called[index] = has_called[index] or bool(calls)
        if finish_reason == "stop" and has_called[index]:
            finish_reason = "tool_calls"
    return Delta(
        index=index,
        text=text,
        num_tokens=len(completion.token_ids),
        finish_reason="stop" if finish_reason == "repetition" else finish_reason,
        logprobs=logprobs,
        tool_calls=calls,
        reasoning=reasoning,
    )


def _token_logprob(token_id: int, at: dict[int, Any] | None, num_top: int, tokenizer: Any) -> TokenLogprob:
    if at is None or token_id not in at:
        return TokenLogprob(tokenizer.decode([token_id]), MIN_LOGPROB, [])
    ranked = [
        TopLogprob(entry.decoded_token or "", max(entry.logprob, MIN_LOGPROB)) for entry in list(at.values())[:num_top]
    ]
    chosen = at[token_id]
    return TokenLogprob(chosen.decoded_token or "", max(chosen.logprob, MIN_LOGPROB), ranked)


def _parse(
    request: GenerationRequest, prepared: Prepared, completion: Any
) -> tuple[str, str | None, list[ToolCallDelta] | None]:
    """Split raw text into content, reasoning and tool calls, by vLLM's parser for the model."""
    parser = prepared.parsers[completion.index]
    token_ids = list(completion.token_ids)
    if not request.is_streaming:
        reasoning, content, called = parser.parse(
            completion.text, prepared.chat, enable_auto_tools=True, model_output_token_ids=token_ids
        )
        calls = [
            ToolCallDelta(i, call.id or f"call_{request.request_id[-12:]}_{i}", call.name, call.arguments)
            for i, call in enumerate(called or [])
        ]
        return content or "", reasoning, calls or None
    message = parser.parse_delta(
        delta_text=completion.text,
        delta_token_ids=token_ids,
        request=prepared.chat,
        prompt_token_ids=prepared.engine_input["prompt_token_ids"],
        finished=completion.finish_reason is not None,
    )
    if message is None:
        return "", None, None
    calls = [
        ToolCallDelta(
            call.index,
            call.id,
            call.function.name if call.function else None,
            (call.function and call.function.arguments) or "",
        )
        for call in message.tool_calls
    ]
    return message.content or "", message.reasoning, calls or None
