"""vLLM's scheduler with prefix-cache blocks of steered tokens kept to the request that made them.

vLLM hashes a block by its tokens alone, so a steered answer would be read by whoever sends the same conversation next.
Here every block that completes after the prompt of a steered request is hashed with the request's id: nobody else can
look it up, the request itself still finds it after a preemption, and blocks of prompts are shared as before.
`engine_settings` names it as `scheduler_cls`; the worker refuses to steer without it while prefix caching is on.
It also hands on what states a step's output carries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from serve.engines.steering_request import may_be_steered
from serve.engines.worker_messages import SENT

BlockHasher = Callable[[Any], list[bytes]]


class _Steering:
    """Salt the hasher of each steered request as it enters, and pass states on."""

    def add_request(self, request: Any) -> None:
        """Enter a request; its prompt's blocks are hashed already, with the plain hasher."""
        params = request.sampling_params
        if params is not None and may_be_steered(params.extra_args) and request._block_hasher is not None:
            request._block_hasher = salted(request._block_hasher, request.request_id)
        super().add_request(request)  # type: ignore[misc]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take a step's tokens; its states travel in the one free-form field that reaches the caller."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        sent = getattr(model_runner_output, SENT, None)
        if sent:
            for client in outputs.values():
                for output in client.outputs:
                    if output.request_id in sent:
                        others = output.kv_transfer_params or {}
                        output.kv_transfer_params = {**others, SENT: sent[output.request_id]}
        return outputs


class SteeringScheduler(_Steering, Scheduler):  # type: ignore[misc]
    """The scheduler where steps are synchronous (CPU)."""


class AsyncSteeringScheduler(_Steering, AsyncScheduler):  # type: ignore[misc]
    """The scheduler where steps overlap (GPU)."""


def build_scheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> Scheduler:
    """Build the one that fits the configuration, as vLLM does when `scheduler_cls` is unset."""
    scheduler = AsyncSteeringScheduler if vllm_config.scheduler_config.async_scheduling else SteeringScheduler
    return scheduler(vllm_config, *args, **kwargs)


def salted(hasher: BlockHasher, request_id: str) -> BlockHasher:
    """Make every hash of `hasher` depend on `request_id` too. Later blocks inherit it through their parent's hash."""
    salt = request_id.encode()

    def salted_hasher(request: Any) -> list[bytes]:
        return [hashlib.sha256(salt + block).digest()[: len(block)] for block in hasher(request)]

    return salted_hasher
