"""What an engine is: one protocol, and the messages that cross it.

The messages are msgspec structs, since they also cross processes. Knows neither vLLM nor Ray nor HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the rest of the server may know of the model."""

    name: str
    max_model_len: int
    has_tools: bool
    created: int  # Unix time in seconds


class ChatInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """A conversation, with what the chat template may see of the tools."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to sample; `None` leaves the model's own default."""

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: list[str] = []
    num_logprobs: int | None = None  # None: no logprobs; 0: only the sampled token's
    ignore_eos: bool = False


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One prompt and how to answer it. Exactly one of `chat`, `text` and `token_ids` is set."""

    request_id: str
    sampling: Sampling
    chat: ChatInput | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    response_format: dict[str, Any] | None = None  # OpenAI's object: json_object or json_schema
    is_streaming: bool = False
    prompt_param: str = "messages"  # the parameter an error about the prompt names


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One alternative at one position."""

    token: str
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The sampled token at one position, and the most probable ones."""

    token: str
    logprob: float
    top: list[TopLogprob]


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a tool call; `id` and `name` come once."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What one choice gained since the last output."""

    index: int
    text: str = ""
    num_tokens: int = 0
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning: str | None = None


class Output(msgspec.Struct, frozen=True, array_like=True):
    """One step of a generation. Without streaming there is one for each finished choice, or one for all."""

    num_prompt_tokens: int
    num_cached_tokens: int
    deltas: list[Delta]


class Engine(Protocol):
    """Hosts one model. One instance a process; used from one event loop."""

    @property
    def model(self) -> ModelInfo:
        """The model; known after `start`."""

    async def start(self) -> None:
        """Load the model. Raises ModelUnavailable or ConfigurationError."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate; closing the generator (or cancelling its consumer) aborts the sequences.

        The first output may have no deltas. Every choice ends with a `finish_reason`.

        Raises:
            InvalidRequest: before the first output.
            EngineUnavailable: at any time.
        """

    async def check_health(self) -> None:
        """Raise EngineUnavailable if the engine cannot go on."""

    async def shutdown(self) -> None:
        """Free everything. Safe to call twice."""
