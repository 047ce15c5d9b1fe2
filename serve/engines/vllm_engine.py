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
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cachetools
import msgspec
import numpy as np

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
)
from serve.engines.steering_request import SteeringRequest
from serve.engines.vllm_candidates import (
    PreparedArm,
    VllmCandidateRun,
    arm_arguments,
    ask_readings,
    forget_states,
    joined_readings,
    reading_of,
)
from serve.engines.vllm_outputs import Prepared, to_delta
from serve.engines.vllm_requests import instructed, lora_request, request_classes, sampling_fields, translated_errors
from serve.engines.worker_messages import Reading, engine_settings
from serve.errors import (
    ConfigurationError,
    ContextLengthExceeded,
    EngineUnavailable,
    InvalidRequest,
    ModelUnavailable,
)

NUM_READ_TEXTS = 4_096  # readings kept, some 5 MB: what is put before many people is read once


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
        self._to_forget: list[str] = []
        self._forgetting: asyncio.Task[None] | None = None
        self._tokenizing = asyncio.Lock()
        self._read: cachetools.LRUCache[bytes, Reading] = cachetools.LRUCache(NUM_READ_TEXTS)

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
        model = self._model_config
        self._llm = self._load()
        self._renderer = self._make_renderer()
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
        with translated_errors(request.prompt_param):
            prepared = await self._prepare(request)
            stream = self._llm.generate(prepared.engine_input, prepared.params, request.request_id)
            has_called = [False] * request.sampling.n
            async for step in stream:
                yield Output(
                    num_prompt_tokens=len(step.prompt_token_ids or ()),
                    num_cached_tokens=step.num_cached_tokens or 0,
                    deltas=[
                        to_delta(request, prepared, completion, completion.index, has_called)
                        for completion in step.outputs
                    ],
                )

    @asynccontextmanager
    async def candidates(self, request: GenerationRequest) -> AsyncIterator[CandidateRun]:
        """Begin a request's arms; see the protocol."""
        space = self._required_space()
        param = request.prompt_param
        with translated_errors(param):
            prompts = {
                instruction: await self._prepare(instructed(request, instruction))
                for instruction in {arm.instruction for arm in request.arms}
            }
        has_called = [False] * len(request.arms)
        arms = [
            self._prepared_arm(request, prompts[arm.instruction], index, arm, has_called)
            for index, arm in enumerate(request.arms)
        ]
        run = VllmCandidateRun(self._llm, arms, space, functools.partial(translated_errors, param), self._forget_states)
        try:
            yield run
        finally:
            await run.close()

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers by prefill; see the protocol."""
        space = self._required_space()
        with translated_errors("candidates"):
            prompt = GenerationRequest(request.request_id, Sampling(max_tokens=1), chat=request.chat, text=request.text)
            prepared = await self._prepare(prompt)
            prompt_ids: list[int] = list(prepared.engine_input["prompt_token_ids"])
            answers = await self._tokenized(request.answers, len(prompt_ids), self.model.max_model_len)
            keys = [text_key(space.id, prompt_ids, answer) for answer in answers]
            known = {key: self._read[key] for key in keys if key in self._read}
            unread = {key: i for i, key in enumerate(keys) if answers[i] and key not in known}
            ids = [f"{request.request_id}.{i}" for i in unread.values()]
            params = prepared.params.clone()
            params.skip_reading_prefix_cache = True  # states of cached tokens are not computed, so not seen
            params.extra_args = SteeringRequest(pool=True, pool_from=len(prompt_ids)).to_extra_args()
            try:
                readings = await asyncio.gather(
                    *(
                        self._read_through({"prompt_token_ids": [*prompt_ids, *answers[i]]}, params, id_)
                        for id_, i in zip(ids, unread.values(), strict=True)
                    )
                )
            finally:
                self._forget_states(ids)
            for key, reading in zip(unread, readings, strict=True):
                known[key] = reading
                if reading.count and reading.version == space.id:
                    self._read[key] = reading
            return joined_readings([known.get(key) for key in keys], space)

    async def check_health(self) -> None:
        """Raise EngineUnavailable if vLLM's process is gone."""
        if self._llm is None:
            raise EngineUnavailable("The engine is still starting.")
        with translated_errors("messages"):
            await self._llm.check_health()

    async def shutdown(self) -> None:
        """End vLLM's process."""
        llm, self._llm = self._llm, None
        if self._forgetting is not None:
            self._forgetting.cancel()
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

    def _load(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - seconds; must follow the environment
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        model, engine = self._model_config, self._engine_config
        try:
            return AsyncLLM.from_engine_args(
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
                    **self._special_arguments(),
                )
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise ModelUnavailable(f"vLLM could not load '{model.id}': {error}") from error

    def _special_arguments(self) -> dict[str, Any]:
        """Name what the device, steering and adapters need."""
        engine = self._engine_config
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
        return arguments

    def _make_renderer(self) -> Any:
        from vllm.renderers.online_renderer import OnlineRenderer  # noqa: PLC0415 - must follow the environment

        model = self._model_config
        try:
            return OnlineRenderer(
                self._llm.model_config,
                self._llm.renderer,
                request_logger=None,
                chat_template=model.chat_template.read_text() if model.chat_template else None,
                chat_template_content_format="auto",
                enable_auto_tools=model.tool_parser is not None,
                tool_parser=model.tool_parser,
                reasoning_parser=model.reasoning_parser,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(f"model.tool_parser or model.reasoning_parser does not fit: {error}") from error

    async def _prepare(self, request: GenerationRequest) -> Prepared:
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
        tokenizer = self._llm.renderer.tokenizer
        return Prepared(engine_input, params, chat, self._parsers(request, chat), tokenizer)

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

    async def _tokenized(self, answers: list[str], num_prompt_tokens: int, max_model_len: int) -> list[list[int]]:
        """Tokenize answers off the event loop, up to the first that is too long; one text at a time in all.

        vLLM's tokenizer may be called from several threads, but keeps a copy of itself for each.
        """
        encode = self._llm.renderer.tokenizer.encode
        tokenized: list[list[int]] = []
        for answer in answers:
            async with self._tokenizing:
                ids = await asyncio.to_thread(encode, answer, add_special_tokens=False)
            if num_prompt_tokens + len(ids) >= max_model_len:
                raise ContextLengthExceeded.of(num_prompt_tokens + len(ids), max_model_len, "candidates")
            tokenized.append(ids)
        return tokenized

    async def _read_through(self, prompt: Any, params: Any, request_id: str) -> Reading:
        """Return the states of one prompt; they come with its one token, or else are asked for."""
        reading = None
        async for step in self._llm.generate(prompt, params.clone(), request_id):
            reading = reading_of(step) or reading
        return reading or (await ask_readings(self._llm, [request_id]))[0]

    def _forget_states(self, ids: list[str]) -> None:
        """Free states without waiting for the running step; what comes while one call runs shares the next."""
        self._to_forget += ids
        if self._forgetting is None or self._forgetting.done():
            self._forgetting = asyncio.create_task(self._forget_all())

    async def _forget_all(self) -> None:
        while self._to_forget:
            ids, self._to_forget = self._to_forget, []
            await forget_states(self._llm, ids)

    def _prepared_arm(
        self, request: GenerationRequest, prepared: Prepared, index: int, arm: EngineArm, has_called: list[bool]
    ) -> PreparedArm:
        params = prepared.params.clone()
        if params.seed is not None:
            params.seed += index  # as vLLM itself does for the choices of one request
        params.min_p = max(params.min_p, arm.min_p)
        if params.repetition_penalty != 1.0:
            arm = dataclasses.replace(arm, repetition_penalty=1.0)
        params.extra_args = arm_arguments(arm, request.best_of.marks() if request.best_of else ())
        parsers = prepared.parsers if index == 0 else self._parsers(request, prepared.chat)
        own = dataclasses.replace(prepared, params=params, parsers=parsers)

        def to_own_delta(completion: Any) -> Delta:
            delta = to_delta(request, own, completion, index, has_called)
            return msgspec.structs.replace(delta, token_ids=list(completion.token_ids))

        lora = lora_request(arm.adapter)
        return PreparedArm(f"{request.request_id}.{index}", prepared.engine_input, params, lora, to_own_delta)

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
        chat_class, completion_class = request_classes()
        fields = sampling_fields(request)
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


def text_key(feature_space: str, prompt: Sequence[int], answer: Sequence[int]) -> bytes:
    """Name what a space reads in the tokens of an answer to a prompt; 32 bytes."""
    tokens = np.array([len(prompt), *prompt, *answer], dtype=np.int64)
    return hashlib.sha256(feature_space.encode() + b"\0" + tokens.tobytes()).digest()
