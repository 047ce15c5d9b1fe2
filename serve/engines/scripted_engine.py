"""A deterministic engine without weights: it speaks the whole protocol, for fast tests of everything around a model.

The answer is drawn from a small vocabulary by a hash of prompt, seed and choice; a token is a word. Directives in the
prompt bring about what a real engine does rarely: `[[say: …]]` answers literally, `[[tokens: N]]` sets the length,
`[[delay: S]]` waits S seconds before each token, `[[fail: N]]` breaks off after N tokens, `[[fail_arm: I]]` breaks off
one arm, `[[die]]` ends the process, `[[sick]]` makes the health check fail from then on. Steering tilts the choice of
words along their features, and what is measured of an answer is the mean over its words (`scripted_words`).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import random
import re
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import (
    ARM_FAILED,
    CandidateRun,
    ChatInput,
    Delta,
    EngineArm,
    Features,
    GenerationRequest,
    MeasureRequest,
    ModelInfo,
    Output,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from serve.engines.scripted_words import (
    TOKEN,
    VOCABULARY,
    features_of_words,
    scripted_feature_space,
    with_ids,
    word_weights,
)
from serve.errors import ContextLengthExceeded, EngineUnavailable, GenerationFailed, InvalidRequest

DEFAULT_LENGTH = 24
DIRECTIVE = re.compile(r"\[\[(\w+)(?::\s*(.*?))?\]\]", re.DOTALL)


class ScriptedEngine:
    """Answers at once, the same way every time."""

    def __init__(self, name: str, max_model_len: int = 2_048, *, die: Callable[[], None] | None = None) -> None:
        """Take the served name; `die` is what the directive `[[die]]` does (by default SIGKILL to this process)."""
        self._name = name
        self._max_model_len = max_model_len
        self._die = die or (lambda: os.kill(os.getpid(), signal.SIGKILL))
        self._model: ModelInfo | None = None
        self._is_sick = False
        self._num_running = 0

    @property
    def model(self) -> ModelInfo:
        """The model; known after `start`."""
        if self._model is None:
            raise EngineUnavailable("The engine is still starting.")
        return self._model

    @property
    def feature_space(self) -> FeatureSpace:
        """Features are the words' own."""
        return scripted_feature_space(self._name)

    @property
    def num_running(self) -> int:
        """Generations in flight."""
        return self._num_running

    async def start(self) -> None:
        """Be ready."""
        self._model = ModelInfo(
            self._name,
            self._max_model_len,
            has_tools=True,
            created=int(time.time()),
            feature_space=self.feature_space.id,
        )

    async def check_health(self) -> None:
        """Raise EngineUnavailable before `start`, after `shutdown`, and once told to be sick."""
        if self._model is None or self._is_sick:
            raise EngineUnavailable("The scripted engine is not healthy.")

    async def shutdown(self) -> None:
        """Stop."""
        self._model = None

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate; see the protocol."""
        model = self.model
        prompt = _prompt_text(request)
        num_prompt_tokens = len(request.token_ids) if request.token_ids is not None else len(TOKEN.findall(prompt))
        if num_prompt_tokens >= model.max_model_len:
            raise ContextLengthExceeded.of(num_prompt_tokens, model.max_model_len, request.prompt_param)
        _validate_response_format(request.response_format)
        directives: dict[str, str] = dict(DIRECTIVE.findall(prompt))
        self._obey(directives)
        choices = [
            _Choice(request, prompt, index, directives, model.max_model_len - num_prompt_tokens)
            for index in range(request.sampling.n)
        ]
        delay_s, fail_after = float(directives.get("delay") or 0), directives.get("fail")
        self._num_running += 1
        try:
            for step in itertools.count():
                if fail_after is not None and step >= int(fail_after or 0):
                    raise GenerationFailed("The scripted engine was told to fail.")
                await asyncio.sleep(delay_s)
                deltas = [delta for choice in choices if (delta := choice.advance()) is not None]
                is_done = all(choice.is_finished for choice in choices)
                if request.is_streaming and deltas:
                    yield Output(num_prompt_tokens, 0, deltas)
                if is_done:
                    break
            if not request.is_streaming:
                yield Output(num_prompt_tokens, 0, [choice.whole() for choice in choices])
        finally:
            self._num_running -= 1

    @asynccontextmanager
    async def candidates(self, request: GenerationRequest) -> AsyncIterator[CandidateRun]:
        """Begin a request's arms; see the protocol."""
        model = self.model
        prompt = _prompt_text(request)
        num_prompt_tokens = len(TOKEN.findall(prompt))
        if num_prompt_tokens >= model.max_model_len:
            raise ContextLengthExceeded.of(num_prompt_tokens, model.max_model_len, request.prompt_param)
        _validate_response_format(request.response_format)
        directives: dict[str, str] = dict(DIRECTIVE.findall(prompt))
        self._obey(directives)
        room = model.max_model_len - num_prompt_tokens
        choices = [_Choice(request, prompt, index, directives, room, arm) for index, arm in enumerate(request.arms)]
        self._num_running += len(choices)
        try:
            yield _ScriptedRun(request, choices, directives, num_prompt_tokens, self.feature_space.id)
        finally:
            self._num_running -= len(choices)

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers; see the protocol."""
        return features_of_words([TOKEN.findall(answer) for answer in request.answers], self.feature_space.id)

    def _obey(self, directives: dict[str, str]) -> None:
        if "sick" in directives:
            self._is_sick = True
        if "die" in directives:
            self._die()


class _Choice:
    """One choice on its way: its words, cut by `stop` and `max_tokens`."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt: str,
        index: int,
        directives: dict[str, str],
        room: int,
        arm: EngineArm | None = None,
    ) -> None:
        sampling = request.sampling
        self._weights = word_weights(arm)
        self._index = index
        self._num_logprobs = sampling.num_logprobs
        self._rng = _rng(prompt, sampling.seed, index, sampling.temperature)
        call = _forced_call(request.chat)
        self._tool_calls: list[ToolCallDelta] | None = [call] if call else None
        if call:
            words, self._finish_reason = [""], "tool_calls"
        else:
            limit = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
            words, self._finish_reason = self._words(request, directives, limit)
        self._words_left = words
        self._said: list[Delta] = []

    def _words(self, request: GenerationRequest, directives: dict[str, str], limit: int) -> tuple[list[str], str]:
        if request.response_format and request.response_format.get("type") != "text":
            words = TOKEN.findall(json.dumps(_minimal_instance(_schema_of(request.response_format))))
        elif "say" in directives:
            words = TOKEN.findall(directives["say"])
        else:
            length = int(directives.get("tokens") or DEFAULT_LENGTH)
            if request.sampling.ignore_eos and request.sampling.max_tokens is not None:
                length = max(length, limit)
            words = [self._word() for _ in range(length)]
            words = [words[0].capitalize(), *(f" {word}" for word in words[1:])] if words else []
            if words:
                words[-1] += "."
        finish_reason = "stop"
        if len(words) > limit:
            words, finish_reason = words[:limit], "length"
        text, ends = "".join(words), [stop for stop in request.sampling.stop if stop and stop in "".join(words)]
        if ends:
            words, finish_reason = TOKEN.findall(text[: min(text.index(stop) for stop in ends)]), "stop"
        return words or [""], finish_reason

    def _word(self) -> str:
        if self._weights is None:
            return self._rng.choice(VOCABULARY)
        return self._rng.choices(VOCABULARY, self._weights)[0]

    @property
    def words(self) -> list[str]:
        """Everything said so far, word by word."""
        return [delta.text for delta in self._said]

    @property
    def is_finished(self) -> bool:
        return not self._words_left

    def advance(self) -> Delta | None:
        if self.is_finished:
            return None
        word = self._words_left.pop(0)
        logprobs = None
        if self._num_logprobs is not None:
            logprob = -self._rng.random()
            top = [
                TopLogprob(word if i == 0 else VOCABULARY[i], logprob - i * math.log(2))
                for i in range(self._num_logprobs)
            ]
            logprobs = [TokenLogprob(word, logprob, top)] if word else []
        delta = Delta(
            index=self._index,
            text=word,
            num_tokens=int(bool(word) or self._tool_calls is not None),
            finish_reason=None if self._words_left else self._finish_reason,
            logprobs=logprobs,
            tool_calls=None if self._said else self._tool_calls,
        )
        self._said.append(delta)
        return delta

    def whole(self) -> Delta:
        """Everything said, as one delta."""
        logprobs = None
        if self._num_logprobs is not None:
            logprobs = [entry for delta in self._said for entry in delta.logprobs or ()]
        return Delta(
            index=self._index,
            text="".join(delta.text for delta in self._said),
            num_tokens=sum(delta.num_tokens for delta in self._said),
            finish_reason=self._finish_reason,
            logprobs=logprobs,
            tool_calls=self._tool_calls,
        )


class _ScriptedRun:
    """The arms of one request, a word a step."""

    def __init__(
        self,
        request: GenerationRequest,
        choices: list[_Choice],
        directives: dict[str, str],
        num_prompt_tokens: int,
        feature_space: str,
    ) -> None:
        self._request = request
        self._choices = choices
        self._directives = directives
        self._num_prompt_tokens = num_prompt_tokens
        self._feature_space = feature_space
        self._aborted: set[int] = set()

    async def outputs(self) -> AsyncIterator[Output]:
        """Yield steps; see the protocol."""
        delay_s, fail_after = float(self._directives.get("delay") or 0), self._directives.get("fail")
        failing = {int(arm) for arm in self._directives.get("fail_arm", "").split(",") if arm}
        if failing >= set(range(len(self._choices))):
            raise GenerationFailed("The scripted engine was told to fail.")
        for step in itertools.count():
            if fail_after is not None and step >= int(fail_after or 0):
                raise GenerationFailed("The scripted engine was told to fail.")
            await asyncio.sleep(delay_s)
            deltas = [Delta(index, finish_reason=ARM_FAILED) for index in sorted(failing - self._aborted)]
            self._aborted |= failing
            running = [index for index in range(len(self._choices)) if index not in self._aborted]
            stepped = [(index, delta) for index in running if (delta := self._choices[index].advance()) is not None]
            if not self._request.is_streaming:
                stepped = [(index, self._choices[index].whole()) for index, _ in stepped if self._is_done(index)]
            deltas += [with_ids(delta) for _, delta in stepped]
            if deltas:
                yield Output(self._num_prompt_tokens, 0, deltas)
            if all(self._is_done(index) for index in running):
                return

    async def features(self, arms: Sequence[int], mark: int | None = None) -> Features:
        """Read the arms' features; the last word is not measured, as in a real engine."""
        words = [self._choices[arm].words for arm in arms]
        return features_of_words([said[: len(said) - 1][:mark] for said in words], self._feature_space)

    async def abort(self, arms: Sequence[int]) -> None:
        """Stop some arms."""
        self._aborted |= set(arms)

    def _is_done(self, index: int) -> bool:
        return self._choices[index].is_finished


def _prompt_text(request: GenerationRequest) -> str:
    if request.chat is not None:
        return "\n".join(f"{message['role']}: {_content_text(message)}" for message in request.chat.messages)
    if request.text is not None:
        return request.text
    return " ".join(str(token_id) for token_id in request.token_ids or ())


def _content_text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _rng(prompt: str, seed: int | None, index: int, temperature: float | None) -> random.Random:
    if temperature == 0:
        seed, index = None, 0
    digest = hashlib.sha256(f"{prompt}\0{seed}\0{index}".encode()).digest()
    return random.Random(digest)  # noqa: S311 - not for secrets


def _forced_call(chat: ChatInput | None) -> ToolCallDelta | None:
    if chat is None or not chat.tools or chat.tool_choice in (None, "auto", "none"):
        return None
    function = chat.tools[0]["function"]
    if isinstance(chat.tool_choice, dict):
        wanted = chat.tool_choice["function"]["name"]
        function = next(tool["function"] for tool in chat.tools if tool["function"]["name"] == wanted)
    arguments = json.dumps(_minimal_instance(function.get("parameters") or {"type": "object"}))
    return ToolCallDelta(0, "call_scripted_0", function["name"], arguments)


def _validate_response_format(response_format: dict[str, Any] | None) -> None:
    if response_format is None:
        return
    import jsonschema  # noqa: PLC0415 - only here

    try:
        jsonschema.Draft202012Validator.check_schema(_schema_of(response_format))
    except jsonschema.SchemaError as error:
        raise InvalidRequest(f"Invalid JSON schema: {error.message}", param="response_format") from error


def _schema_of(response_format: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] | None = (response_format.get("json_schema") or {}).get("schema")
    return schema or {"type": "object"}


def _minimal_instance(schema: Any) -> Any:
    """Make the plainest value that fits the common parts of JSON Schema."""
    if not isinstance(schema, dict):
        return {}
    given = [schema[key] for key in ("const", "default") if key in schema] + list(schema.get("enum") or ())
    nested = [option for key in ("anyOf", "oneOf", "allOf") for option in schema.get(key) or ()]
    if given or nested:
        return given[0] if given else _minimal_instance(nested[0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {
            name: _minimal_instance(properties.get(name, {"type": "string"})) for name in schema.get("required", ())
        }
    plain: dict[str, Any] = {"string": "word", "integer": 0, "number": 0.0, "boolean": True}
    plain["array"] = [_minimal_instance(schema.get("items", {"type": "string"}))] * int(schema.get("minItems", 0))
    return plain.get(kind)
