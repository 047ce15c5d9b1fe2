"""From the engine protocol to vLLM's requests, and from its errors to ours.

vLLM is imported when something is first asked of it: that takes seconds. Knows nothing of engines' lives.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from serve.engines.protocol import GenerationRequest
from serve.errors import EngineUnavailable, GenerationFailed, InvalidRequest


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
def request_classes() -> tuple[Any, Any]:
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


def sampling_fields(request: GenerationRequest) -> dict[str, Any]:
    """Name what both kinds of vLLM's requests have in common."""
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


@contextmanager
def translated_errors(param: str) -> Iterator[None]:
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
