"""The bodies clients send, with their bounds.

Own models rather than vLLM's: the ingress must not import an engine, and vLLM's accept fields (chat templates, cache
salts, engine arguments) that would let one caller reach into another's request. Unknown fields are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from router.groups import Aggregate

INT64_MAX = 2**63 - 1
MAX_LOGIT_BIAS = 1_024
MAX_TOOLS = 128

ShortText = Annotated[str, StringConstraints(max_length=512)]
Identifier = Annotated[str, StringConstraints(max_length=256)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
Weight = Annotated[float, Field(ge=-10, le=10)]
AttributeName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RequestModel(BaseModel):
    """A part of a request: strict about names, and about not-a-number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(RequestModel):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class FunctionCall(RequestModel):
    """A call the assistant made earlier."""

    name: FunctionName
    arguments: str


class ToolCall(RequestModel):
    """A tool call the assistant made earlier."""

    id: Identifier
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(RequestModel):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: ShortText | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: Identifier | None = None

    @model_validator(mode="after")
    def _complete(self) -> Message:
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            raise ValueError(f"a message of the role '{self.role}' needs content")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of the role 'tool' needs tool_call_id")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only assistant messages have tool_calls")
        return self

    def rendered(self) -> dict[str, Any]:
        """Return it as the chat template wants it: plain text, and `system` for `developer`."""
        message = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            message["content"] = "".join(part.text for part in self.content)
        if self.role == "developer":
            message["role"] = "system"
        return message


class FunctionDefinition(RequestModel):
    """A function the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool the model may use."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(RequestModel):
    """The function to call."""

    name: FunctionName


class NamedToolChoice(RequestModel):
    """A tool the model must use."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(RequestModel):
    """A schema the answer must follow."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class TextFormat(RequestModel):
    """Plain text, the default."""

    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(RequestModel):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(RequestModel):
    """What else to stream."""

    include_usage: bool = Field(False, description="End the stream with a chunk that holds the usage.")
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class PalateOptions(RequestModel):
    """What a request asks of personalization; unset options are the operator's."""

    best_of: int | None = Field(None, ge=1, le=32, description="Candidates to choose from; 1 only steers.")
    strength: float = Field(1.0, ge=0, le=1, description="0: as if nothing were known of the person.")
    weights: dict[AttributeName, Weight] = Field(
        default_factory=dict,
        max_length=64,
        description="Named attributes with signed weights; 1 is a full dose. They add to what is inferred.",
    )
    users: list[Annotated[Identifier, Field(min_length=1)]] = Field(
        default_factory=list, max_length=16, description="Several people to answer together, instead of `user`."
    )
    aggregate: Aggregate = Field(Aggregate.MEAN, description="How several people's wishes become one.")
    explore: float | None = Field(None, ge=0, le=1, description="Share of candidates drawn to learn about the person.")
    halving: bool | None = Field(None, description="Stop losing candidates early and stream the survivor.")
    explain: bool = Field(False, description="Report every candidate's reward.")
    off: bool = Field(False, description="Answer with the base model.")


class SamplingRequest(RequestModel):
    """What chat and text completions share."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")], Bias] | None = Field(
        None, max_length=MAX_LOGIT_BIAS
    )
    n: int | None = Field(None, ge=1, description="How many choices; the server may bound it further.")
    response_format: ResponseFormat | None = None
    seed: int | None = Field(None, ge=-INT64_MAX - 1, le=INT64_MAX, description="Same seed and request, same text.")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    user: Identifier | None = Field(None, description="The person asking.")
    safety_identifier: Identifier | None = Field(None, description="The person asking; goes before `user`.")
    metadata: dict[Annotated[str, StringConstraints(max_length=64)], ShortText] | None = Field(None, max_length=16)
    # Beyond OpenAI's own, named as in vLLM:
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="0 considers every token.")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: int = Field(0, ge=0, le=10_000_000)
    ignore_eos: bool = False

    @model_validator(mode="after")
    def _stream_options_need_stream(self) -> SamplingRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is allowed only with stream: true")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop texts as a list."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatCompletionRequest(SamplingRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_tokens: int | None = Field(None, ge=1, le=10_000_000, description="Deprecated: use max_completion_tokens.")
    max_completion_tokens: int | None = Field(None, ge=1, le=10_000_000)
    tools: list[Tool] | None = Field(None, min_length=1, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = True
    store: bool | None = Field(None, description="Accepted; answers cannot be fetched again later.")
    modalities: list[Literal["text"]] | None = None
    service_tier: ShortText | None = Field(None, description="Accepted and ignored.")
    reasoning_effort: ShortText | None = Field(None, description="Accepted and ignored.")
    verbosity: ShortText | None = Field(None, description="Accepted and ignored.")
    prompt_cache_key: ShortText | None = Field(None, description="Accepted and ignored: prompts are always cached.")
    palate: PalateOptions | None = Field(None, description="Personalization of this answer.")

    @model_validator(mode="after")
    def _consistent(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in (None, "none") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if isinstance(self.tool_choice, NamedToolChoice):
            name = self.tool_choice.function.name
            if name not in {tool.function.name for tool in self.tools or ()}:
                raise ValueError(f"tool_choice names '{name}', which is not among the tools")
        return self


class CompletionRequest(SamplingRequest):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(None, ge=0, le=20)
    max_tokens: int | None = Field(16, ge=1, le=10_000_000)
    echo: bool | None = False
    best_of: int | None = Field(None, ge=1, description="Only the value of `n` is accepted.")
    suffix: None = Field(None, description="Not supported.")

    @model_validator(mode="after")
    def _supported(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of must equal n")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo together with logprobs is not supported")
        if self.echo and not _is_text(self.prompt):
            raise ValueError("echo needs prompts given as text")
        return self

    def prompts(self) -> list[str | list[int]]:
        """The prompts, one each: texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [item for item in self.prompt if isinstance(item, str)]
        token_ids = [item for item in self.prompt if isinstance(item, int)]
        lists = [item for item in self.prompt if isinstance(item, list)]
        return [token_ids] if token_ids else [*texts, *lists]


def _is_text(prompt: Any) -> bool:
    return isinstance(prompt, str) or all(isinstance(item, str) for item in prompt)
