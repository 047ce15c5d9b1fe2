"""What an engine is: one protocol, and the messages that cross it.

The messages are msgspec structs, since they also cross processes. Knows neither vLLM nor Ray nor HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.groups import Aggregate
from router.mixture import Mixture
from router.selection import DEFAULT_GATE, GuardLimits
from router.types import Array
from serve.engines.feature_space import FeatureSpace

FinishReason = Literal["stop", "length", "tool_calls"]
ARM_FAILED = "error"  # the finish reason of an arm that broke off while others go on


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the rest of the server may know of the model."""

    name: str
    max_model_len: int
    has_tools: bool
    created: int  # Unix time in seconds
    feature_space: str | None = None  # id of what its states are read and steered in


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


@dataclass(frozen=True, slots=True)
class EngineArm:
    """One candidate's way of being generated; without anything set it is the untouched base model."""

    coeffs: tuple[float, ...] = ()  # (P,) of the feature space's directions
    dose: float = 0.0  # length of the added vector relative to each token's residual norm
    adapter: str | None = None  # folder of a LoRA, in PEFT's layout
    instruction: str | None = None  # put before the conversation as a system message
    min_p: float = 0.0  # least share of the likeliest token's probability; the request's own if larger
    repetition_penalty: float = 1.0  # on tokens the answer has already; the request's own instead if it has one
    tilt: float = 0.0  # root mean square of what is added to logits along the coefficients


@dataclass(frozen=True, eq=False, slots=True)
class Readout:
    """From the engine's features (N, P) to the reward features (N, D) that judges weigh."""

    basis: Array  # (D, P)
    center: Array  # (P,)
    scale: Array  # (P,)

    def __call__(self, features: NDArray[np.float32]) -> Array:
        """Map (..., P) to (..., D)."""
        return np.asarray(((features - self.center) / self.scale) @ self.basis.T)


@dataclass(frozen=True, eq=False)
class BestOf:
    """How the answer is chosen among a request's arms, of which the first is the base.

    Without a judge nothing is chosen: the arms are served in order, and only measured.
    """

    readout: Readout | None = None
    judges: tuple[Mixture, ...] = ()  # reward weights of each person the answer is for
    aggregate: Aggregate = Aggregate.MEAN  # how several persons' rewards are joined
    gate: float = DEFAULT_GATE
    limits: GuardLimits = field(default_factory=GuardLimits)
    checkpoints: tuple[int, ...] = ()  # generated tokens at which losers are aborted; none: all run to their end
    num_best: int = 1  # answers to return, the winner first

    def marks(self) -> tuple[int, ...]:
        """Numbers of measured tokens at the checkpoints: the last token of an answer is not measured."""
        return tuple(checkpoint - 1 for checkpoint in self.checkpoints)


class GenerationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One prompt and how to answer it. Exactly one of `chat`, `text` and `token_ids` is set.

    With `arms` there is one sequence an arm, whatever `sampling.n` says, and `best_of` says which are served.
    """

    request_id: str
    sampling: Sampling
    chat: ChatInput | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    response_format: dict[str, Any] | None = None  # OpenAI's object: json_object or json_schema
    is_streaming: bool = False
    prompt_param: str = "messages"  # the parameter an error about the prompt names
    arms: tuple[EngineArm, ...] = ()
    best_of: BestOf | None = None
    sent_at: float = 0.0  # Unix time at which it left the ingress; 0: it did not come from one


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
    token_ids: list[int] | None = None  # only from `Engine.candidates`


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What came of a request's arms; N of them, in the plan's order."""

    order: list[int]  # the arms served, the winner first
    reason: str  # of `router.selection.Reason`
    prob_over_base: float
    rewards: list[float]  # (N,) in logits of a comparison; NaN where an arm was not measured at the end
    stds: list[float]  # (N,)
    penalties: list[float]  # (N,)
    num_tokens: list[int]  # (N,) generated
    features: bytes  # (N, P) float32 little-endian; NaN rows where an arm has none
    num_features: int  # P
    feature_space: str  # its id
    choosing_s: float  # from the last token to the choice

    def features_array(self) -> NDArray[np.float32]:
        """Return the features, (N, P)."""
        return np.frombuffer(self.features, dtype="<f4").reshape(-1, self.num_features).astype(np.float32)


class Output(msgspec.Struct, frozen=True, array_like=True):
    """One step of a generation. Without streaming there is one for each finished choice, or one for all.

    With arms the last output carries the verdict.
    """

    num_prompt_tokens: int
    num_cached_tokens: int
    deltas: list[Delta]
    verdict: Verdict | None = None


class MeasureRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Texts to read as answers to one prompt. Exactly one of `chat` and `text` is set."""

    request_id: str
    answers: list[str]
    chat: ChatInput | None = None
    text: str | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Features:
    """Features of sequences in the engine's feature space, and how many generated tokens stand behind each."""

    feature_space: str  # its id
    counts: tuple[int, ...]  # (N,); 0 where there is nothing yet
    values: NDArray[np.float32]  # (N, P); NaN where the count is 0


class CandidateRun(Protocol):
    """The arms of one request while they are generated."""

    def outputs(self) -> AsyncIterator[Output]:
        """Yield steps; `Delta.index` is the arm. An arm that breaks off ends with the finish reason `ARM_FAILED`.

        Raises:
            InvalidRequest: before the first output.
            EngineUnavailable: when no arm can go on.
        """

    async def features(self, arms: Sequence[int], mark: int | None = None) -> Features:
        """Read the features of some arms, running or finished, in one call.

        With `mark`, one of `BestOf.marks`, as they were when that many of an arm's tokens were measured, so that
        what is read does not depend on when.
        """

    async def abort(self, arms: Sequence[int]) -> None:
        """Stop some arms; they yield no more."""


class Engine(Protocol):
    """Hosts one model. One instance a process; used from one event loop."""

    @property
    def model(self) -> ModelInfo:
        """The model; known after `start`."""

    @property
    def feature_space(self) -> FeatureSpace | None:
        """What its states are read and steered in; None where the engine can do neither."""

    async def start(self) -> None:
        """Load the model. Raises ModelUnavailable or ConfigurationError."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate; closing the generator (or cancelling its consumer) aborts the sequences.

        The first output may have no deltas. Every choice ends with a `finish_reason`.

        Raises:
            InvalidRequest: before the first output.
            EngineUnavailable: at any time.
        """

    def candidates(self, request: GenerationRequest) -> AbstractAsyncContextManager[CandidateRun]:
        """Begin a request's arms; leaving the context aborts what still runs and forgets their states."""

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers by prefill, (N, P); the same features as if they had been generated."""

    async def check_health(self) -> None:
        """Raise EngineUnavailable if the engine cannot go on."""

    async def shutdown(self) -> None:
        """Free everything. Safe to call twice."""
