"""The real engine: vLLM's AsyncLLM, on CPUs and GPUs with the same code.

Prompts are rendered, tools and reasoning parsed, and structured outputs compiled by vLLM's own code; this module only
translates between its types and the engine protocol. Knows neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from serve.config import EngineConfig, ModelConfig
from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import (
    CandidateRun,
    ChatInput,
    Delta,
    EngineArm,
    Features,
    GenerationRequest,
    MeasureRequest,
    ModelInfo,
    Output,
    Sampling,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)
from serve.engines.steering_request import SteeringRequest
from serve.engines.vllm_candidates import (
    PreparedArm,
    VllmCandidateRun,
    arm_arguments,
    forget_states,
    joined_readings,
    read_features,
    reading_of,
)
from serve.engines.worker_messages import Reading, engine_settings
from serve.errors import (
    ConfigurationError,
    ContextLengthExceeded,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    ModelUnavailable,
)

MIN_LOGPROB = -9999.0  # JSON has no -inf


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A rendered request: vLLM's input and parameters, and one parser a choice where the model has one."""

    engine_input: Any
    params: Any
    chat: Any
    parsers: list[Any]


class VllmEngine:
    """One vLLM engine; `start` takes 20 s to minutes, depending on the model."""

    def __init__(self, model: ModelConfig, engine: EngineConfig, path: str, space: FeatureSpace | None = None) -> None:
        """Take the configuration; without a feature space the engine neither steers nor measures."""
        self._model_config = model
        self._engine_config = engine
        self._path = path
        self._space = space
        self._llm: Any = None
        self._renderer: Any = None
        self._model: ModelInfo | None = None
        self._forgetting: set[asyncio.Task[None]] = set()

    @property
    def model(self) -> ModelInfo:
        """The model; known after `start`."""
        if self._model is None:
            raise EngineUnavailable("The engine is still starting.")
        return self._model

    @property
    def feature_space(self) -> FeatureSpace | None:
        """What states are read and steered in."""
        return self._space

    async def start(self) -> None:
        """Load the model and start the engine's own process."""
        self._prepare_environment()
        from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - seconds; must follow the environment
        from vllm.renderers.online_renderer import OnlineRenderer  # noqa: PLC0415
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        model, engine = self._model_config, self._engine_config
        arguments: dict[str, Any] = {}
        if engine.num_gpus:
            arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
            arguments["tensor_parallel_size"] = engine.tensor_parallel_size
        else:
            # A prompt read in parts draws tokens that are thrown away; for a seeded request vLLM then turns its
            # generator back by an offset, which those of a CPU do not have: the worker would die.
            arguments["enable_chunked_prefill"] = False
        if self._space is not None:
            arguments |= engine_settings(self._space.worker_config().layers)
        if engine.max_loras:
            arguments |= {
                "enable_lora": True,
                "max_loras": engine.max_loras,
                "max_cpu_loras": max(engine.max_loras, 8),
                "max_lora_rank": engine.max_lora_rank,
            }
        try:
            self._llm = AsyncLLM.from_engine_args(
                AsyncEngineArgs(
                    model=self._path,
                    served_model_name=[model.name],
                    revision=model.revision,
                    dtype=model.dtype,
                    max_model_len=model.max_model_len,
                    max_num_seqs=engine.max_num_seqs,
                    enforce_eager=not engine.compile,
                    enable_prefix_caching=True,
                    load_format="safetensors",
                    trust_remote_code=False,
                    enable_log_requests=False,
                    **arguments,
                )
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise ModelUnavailable(f"vLLM could not load '{model.id}': {error}") from error
        template = model.chat_template.read_text() if model.chat_template else None
        try:
            self._renderer = OnlineRenderer(
                self._llm.model_config,
                self._llm.renderer,
                request_logger=None,
                chat_template=template,
                chat_template_content_format="auto",
                enable_auto_tools=model.tool_parser is not None,
                tool_parser=model.tool_parser,
                reasoning_parser=model.reasoning_parser,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"model.tool_parser or model.reasoning_parser does not fit: {error}") from error
        self._renderer.warmup()
        if self._space is not None:
            try:
                await self._llm.collective_rpc("configure", args=(self._space.worker_config().to_message(),))
            except Exception as error:  # vLLM wraps the worker's errors in its own
                raise ConfigurationError(f"The feature space does not fit '{model.id}': {error}") from error
        self._model = ModelInfo(
            name=model.name,
            max_model_len=self._llm.model_config.max_model_len,
            has_tools=model.tool_parser is not None,
            created=int(time.time()),
            feature_space=self._space.id if self._space else None,
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate; see the protocol."""
        with _translated_errors(request.prompt_param):
            prepared = await self._prepare(request)
            stream = self._llm.generate(prepared.engine_input, prepared.params, request.request_id)
            has_called = [False] * request.sampling.n
            async for step in stream:
                yield Output(
                    num_prompt_tokens=len(step.prompt_token_ids or ()),
                    num_cached_tokens=step.num_cached_tokens or 0,
                    deltas=[
                        self._delta(request, prepared, completion, completion.index, has_called)
                        for completion in step.outputs
                    ],
                )

    @asynccontextmanager
    async def candidates(self, request: GenerationRequest) -> AsyncIterator[CandidateRun]:
        """Begin a request's arms; see the protocol."""
        space = self._required_space()
        param = request.prompt_param
        with _translated_errors(param):
            prompts = {
                instruction: await self._prepare(instructed(request, instruction))
                for instruction in {arm.instruction for arm in request.arms}
            }
        has_called = [False] * len(request.arms)
        arms = [
            self._prepared_arm(request, prompts[arm.instruction], index, arm, has_called)
            for index, arm in enumerate(request.arms)
        ]
        run = VllmCandidateRun(self._llm, arms, space, functools.partial(_translated_errors, param))
        try:
            yield run
        finally:
            await run.close()

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers by prefill; see the protocol."""
        space = self._required_space()
        with _translated_errors("candidates"):
            prompt = GenerationRequest(request.request_id, Sampling(max_tokens=1), chat=request.chat, text=request.text)
            prepared = await self._prepare(prompt)
            prompt_ids: list[int] = list(prepared.engine_input["prompt_token_ids"])
            tokenizer = self._llm.renderer.tokenizer
            ids = [f"{request.request_id}.{index}" for index in range(len(request.answers))]
            params = prepared.params.clone()
            params.skip_reading_prefix_cache = True  # states of cached tokens are not computed, so not seen
            params.extra_args = SteeringRequest(pool=True, pool_from=len(prompt_ids)).to_extra_args()
            answers = [tokenizer.encode(answer, add_special_tokens=False) for answer in request.answers]
            for answer in answers:
                if len(prompt_ids) + len(answer) >= self.model.max_model_len:
                    raise ContextLengthExceeded.of(
                        len(prompt_ids) + len(answer), self.model.max_model_len, "candidates"
                    )
            try:
                readings = await asyncio.gather(
                    *(
                        self._read_through({"prompt_token_ids": [*prompt_ids, *answer]}, params, id_)
                        for id_, answer in zip(ids, answers, strict=True)
                        if answer
                    )
                )
                if any(reading is None for reading in readings):
                    return await read_features(self._llm, ids, space)
                arrived = iter(readings)
                return joined_readings([next(arrived) if answer else None for answer in answers], space)
            finally:
                self._forget_states(ids)

    async def check_health(self) -> None:
        """Raise EngineUnavailable if vLLM's process is gone."""
        if self._llm is None:
            raise EngineUnavailable("The engine is still starting.")
        with _translated_errors("messages"):
            await self._llm.check_health()

    async def shutdown(self) -> None:
        """End vLLM's process."""
        llm, self._llm = self._llm, None
        for task in self._forgetting:
            task.cancel()
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)

    def _prepare_environment(self) -> None:
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
            "VLLM_CPU_KVCACHE_SPACE": str(self._engine_config.cpu_kv_cache_gib),
        }
        if Path(self._path).is_dir():
            environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        os.environ.update(environment)
        # Ray sets this to an actor's num_cpus, which would hold vLLM's CPU workers to one thread.
        os.environ.pop("OMP_NUM_THREADS", None)

    async def _prepare(self, request: GenerationRequest) -> _Prepared:
        chat, engine_input = await self._render(request)
        num_prompt_tokens = len(engine_input["prompt_token_ids"])
        max_model_len = self.model.max_model_len
        if num_prompt_tokens >= max_model_len:
            raise ContextLengthExceeded.of(num_prompt_tokens, max_model_len, request.prompt_param)
        room = max_model_len - num_prompt_tokens
        wanted = request.sampling.max_tokens
        params = chat.to_sampling_params(
            room if wanted is None else min(wanted, room), self._llm.model_config.get_diff_sampling_param()
        )
        return _Prepared(engine_input, params, chat, self._parsers(request, chat))

    def _parsers(self, request: GenerationRequest, chat: Any) -> list[Any]:
        """Make vLLM's parser for the model, one a choice, where the request needs one."""
        if not (request.chat and self._renderer.parser and (request.chat.tools or self._model_config.reasoning_parser)):
            return []
        kwargs = self._renderer.effective_chat_template_kwargs(chat)
        return [
            self._renderer.parser(
                self._llm.renderer.tokenizer,
                chat.tools,
                chat_template_kwargs=kwargs,
                model_config=self._llm.model_config,
            )
            for _ in range(request.sampling.n)
        ]

    def _required_space(self) -> FeatureSpace:
        if self._space is None:
            raise InvalidRequest("This server's engine has no feature space for its model: answers are not measured.")
        return self._space

    async def _read_through(self, prompt: Any, params: Any, request_id: str) -> Reading | None:
        reading = None
        async for step in self._llm.generate(prompt, params.clone(), request_id):
            reading = reading_of(step) or reading
        return reading

    def _forget_states(self, ids: list[str]) -> None:
        """Free states without waiting for the running step."""
        task = asyncio.create_task(forget_states(self._llm, ids))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    def _prepared_arm(
        self, request: GenerationRequest, prepared: _Prepared, index: int, arm: EngineArm, has_called: list[bool]
    ) -> PreparedArm:
        params = prepared.params.clone()
        if params.seed is not None:
            params.seed += index  # as vLLM itself does for the choices of one request
        params.min_p = max(params.min_p, arm.min_p)
        params.extra_args = arm_arguments(arm, request.best_of.marks() if request.best_of else ())
        parsers = prepared.parsers if index == 0 else self._parsers(request, prepared.chat)
        own = dataclasses.replace(prepared, params=params, parsers=parsers)

        def to_delta(completion: Any) -> Delta:
            delta = self._delta(request, own, completion, index, has_called)
            return msgspec.structs.replace(delta, token_ids=list(completion.token_ids))

        lora = lora_request(arm.adapter)
        return PreparedArm(f"{request.request_id}.{index}", prepared.engine_input, params, lora, to_delta)

    def _check_tools(self, chat: ChatInput) -> None:
        """Calls that the model may choose are found in its text, by the model's own parser."""
        if chat.tools and chat.tool_choice in (None, "auto") and self._model_config.tool_parser is None:
            raise InvalidRequest(
                "This server has no tool parser for its model: name the tool in 'tool_choice', or let the operator set "
                "'model.tool_parser'.",
                param="tools",
            )

    async def _render(self, request: GenerationRequest) -> tuple[Any, Any]:
        """Return vLLM's own request (chat or completion) and its tokenized prompt."""
        chat_class, completion_class = _request_classes()
        fields = _sampling_fields(request)
        if request.chat is not None:
            self._check_tools(request.chat)
            chat = chat_class(
                messages=request.chat.messages,
                tools=request.chat.tools,
                parallel_tool_calls=request.chat.parallel_tool_calls,
                logprobs=request.sampling.num_logprobs is not None,
                top_logprobs=request.sampling.num_logprobs or 0,
                **({"tool_choice": request.chat.tool_choice} if request.chat.tool_choice is not None else {}),
                **fields,
            )
            rendered = await self._renderer.render_chat(chat)
            if not isinstance(rendered, tuple):
                raise InvalidRequest(rendered.error.message, param=rendered.error.param)
            return chat, rendered[1][0]
        prompt = request.text if request.text is not None else request.token_ids
        completion = completion_class(prompt=prompt, logprobs=request.sampling.num_logprobs, **fields)
        inputs = await self._renderer.render_completion(completion)
        if not isinstance(inputs, list):
            raise InvalidRequest(inputs.error.message, param=inputs.error.param)
        return completion, inputs[0]

    def _delta(
        self, request: GenerationRequest, prepared: _Prepared, completion: Any, index: int, has_called: list[bool]
    ) -> Delta:
        text = completion.text
        finish_reason = completion.finish_reason
        if finish_reason in ("error", "abort"):
            raise GenerationFailed("The engine broke off this generation.")
        logprobs = None
        if request.sampling.num_logprobs is not None and completion.logprobs is not None:
            tokenizer = self._llm.renderer.tokenizer
            logprobs = [
                _token_logprob(token_id, at, request.sampling.num_logprobs, tokenizer)
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


def instructed(request: GenerationRequest, instruction: str | None) -> GenerationRequest:
    """Put an instruction before the conversation: into its system message, or as one."""
    if instruction is None or request.chat is None:
        return request
    first, *rest = request.chat.messages
    if first.get("role") == "system" and isinstance(first.get("content"), str):
        messages = [{**first, "content": f"{first['content']}\n\n{instruction}"}, *rest]
    else:
        messages = [{"role": "system", "content": instruction}, first, *rest]
    return msgspec.structs.replace(request, chat=msgspec.structs.replace(request.chat, messages=messages))


def lora_request(adapter: str | None) -> Any:
    """Name an adapter's folder to vLLM; its id is a hash, so that every replica agrees on it."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest  # noqa: PLC0415 - seconds

    number = int.from_bytes(hashlib.sha256(adapter.encode()).digest()[:4], "big") % (2**31 - 1) + 1
    return LoRARequest(lora_name=adapter, lora_int_id=number, lora_path=adapter)


@functools.cache  # making a pydantic class takes tens of milliseconds
def _request_classes() -> tuple[Any, Any]:
    """vLLM's request models, told not to check lengths: the engine does, and names both numbers."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # noqa: PLC0415
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest  # noqa: PLC0415

    class ChatRequest(ChatCompletionRequest):  # type: ignore[misc]
        def build_tok_params(self, model_config: Any) -> Any:
            return dataclasses.replace(super().build_tok_params(model_config), max_total_tokens=None)

    class TextRequest(CompletionRequest):  # type: ignore[misc]
        def build_tok_params(self, model_config: Any) -> Any:
            return dataclasses.replace(super().build_tok_params(model_config), max_total_tokens=None)

    return ChatRequest, TextRequest


def _sampling_fields(request: GenerationRequest) -> dict[str, Any]:
    sampling = request.sampling
    return {
        "n": sampling.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "logit_bias": sampling.logit_bias,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "min_tokens": sampling.min_tokens,
        "ignore_eos": sampling.ignore_eos,
        "response_format": request.response_format,
        "stream": request.is_streaming,
    }


def _token_logprob(token_id: int, at: dict[int, Any] | None, num_top: int, tokenizer: Any) -> TokenLogprob:
    if at is None or token_id not in at:
        return TokenLogprob(tokenizer.decode([token_id]), MIN_LOGPROB, [])
    ranked = [
        TopLogprob(entry.decoded_token or "", max(entry.logprob, MIN_LOGPROB)) for entry in list(at.values())[:num_top]
    ]
    chosen = at[token_id]
    return TokenLogprob(chosen.decoded_token or "", max(chosen.logprob, MIN_LOGPROB), ranked)


def _parse(
    request: GenerationRequest, prepared: _Prepared, completion: Any
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


@contextmanager
def _translated_errors(param: str) -> Iterator[None]:
    """Turn vLLM's, Jinja's and pydantic's errors into ours."""
    from jinja2 import TemplateError  # noqa: PLC0415 - comes with vLLM
    from pydantic import ValidationError  # noqa: PLC0415
    from vllm.exceptions import VLLMClientError  # noqa: PLC0415
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: PLC0415

    try:
        yield
    except EngineDeadError as error:
        raise EngineUnavailable("The engine's process is gone; it is being restarted.") from error
    except EngineGenerateError as error:
        raise GenerationFailed("The engine failed on this request.") from error
    except TemplateError as error:
        raise InvalidRequest(f"The model's chat template refuses this conversation: {error}", param=param) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequest(first["msg"], param=where) from error
    except (VLLMClientError, ValueError) as error:
        raise InvalidRequest(str(error), param=getattr(error, "parameter", None)) from error
