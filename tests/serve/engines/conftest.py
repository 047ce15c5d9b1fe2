"""One real engine at a time, in this process, so that a test can step it and look into its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from serve.engines.steering_request import SteeringRequest
from serve.engines.worker_messages import States, WorkerConfig, engine_settings
from serve.home import Home
from serve.models import DEFAULT_MODEL, resolve


@dataclass
class SteppedEngine:
    """vLLM's engine, one step at a call."""

    llm: Any
    texts: dict[str, Any] = field(default_factory=dict)  # finished outputs

    def add(
        self, request_id: str, prompt: str | list[int], steering: SteeringRequest | None = None, **params: Any
    ) -> None:
        """Send a request, greedy unless told otherwise."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            extra_args=steering.to_extra_args() if steering else None, **{"temperature": 0.0, **params}
        )
        self.llm.add_request(request_id, prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt}, sampling)

    def step(self, num_steps: int = 1) -> None:
        """Run some steps."""
        for _ in range(num_steps):
            for output in self.llm.step():
                if output.finished:
                    self.texts[output.request_id] = output

    def drain(self) -> None:
        """Run until nothing is left, and once more so that the worker hears of the last."""
        while self.llm.has_unfinished_requests():
            self.step()
        self.step()

    def run(self, **requests: tuple[str | list[int], SteeringRequest | None]) -> dict[str, list[int]]:
        """Generate 24 tokens for each in one batch; return the tokens."""
        for request_id, (prompt, steering) in requests.items():
            self.add(request_id, prompt, steering, max_tokens=24, ignore_eos=True)
        self.drain()
        return {request_id: list(self.texts[request_id].outputs[0].token_ids) for request_id in requests}

    def configure(self, config: WorkerConfig) -> None:
        """Configure the worker extension."""
        self.llm.collective_rpc("configure", args=(config.to_message(),))

    def read(self, *request_ids: str) -> States:
        """Read states."""
        return States.from_message(self.llm.collective_rpc("read_states", args=(list(request_ids),))[0])

    def stats(self) -> dict[str, int]:
        """Read the extension's counts."""
        stats: dict[str, int] = self.llm.collective_rpc("steering_stats")[0]
        return stats

    def tokens(self, text: str) -> list[int]:
        """Tokenize."""
        return list(self.llm.get_tokenizer().encode(text))

    @property
    def scheduler(self) -> Any:
        """vLLM's scheduler."""
        return self.llm.engine_core.engine_core.scheduler


EngineStarter = Callable[..., SteppedEngine]


@pytest.fixture(scope="module")
def start_engine() -> Iterator[EngineStarter]:
    """Start an engine of its own in this process; the one before is ended first."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }.items():
            environment.setenv(name, value)
        running: list[SteppedEngine] = []

        def end() -> None:
            from vllm.distributed import cleanup_dist_env_and_memory

            for engine in running:
                engine.llm.engine_core.shutdown()
            running.clear()
            cleanup_dist_env_and_memory()

        def start(model: str | Path, layers: list[int] | None, **settings: Any) -> SteppedEngine:
            from vllm import EngineArgs
            from vllm.v1.engine.llm_engine import LLMEngine

            end()
            extension = engine_settings(layers) if layers is not None else {}
            defaults = {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 8}
            arguments = EngineArgs(model=str(model), **{**defaults, **extension, **settings})
            running.append(SteppedEngine(LLMEngine.from_engine_args(arguments)))
            return running[0]

        yield start
        end()


@pytest.fixture(scope="session")
def default_model() -> str:
    """The folder of the embedded default model."""
    return resolve(DEFAULT_MODEL.name, Home.from_env(), quiet=True)
