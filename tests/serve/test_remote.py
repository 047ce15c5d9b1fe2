"""Readiness as an ingress replica sees it: engines that are gone, and engines that are only busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from serve import remote
from serve.engines.protocol import Delta, GenerationRequest, ModelInfo, Output, Sampling
from serve.errors import EngineUnavailable, GenerationFailed
from serve.remote import RayService
from serve.transport import Failure, OutputReceiver
from tests.patience import PATIENCE_S

MODEL = ModelInfo("m", 2_048, has_tools=False, created=0)
WHOLE = GenerationRequest("r", Sampling(), text="hi")
DONE = [Output(1, 0, [Delta(0, "hello", 1, "stop")])]


class Call:
    """One call of a replica: ends with a value or an error once told to."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.future.__await__()

    def cancel(self) -> None:
        self.future.cancel()


class Method:
    """A method of a deployment; `answer` is what a call ends with at once, None lets it wait."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.calls: list[Call] = []

    def remote(self, *_: object) -> Call:
        call = Call()
        if isinstance(self.answer, Exception):
            call.future.set_exception(self.answer)
        elif self.answer is not None:
            call.future.set_result(self.answer)
        self.calls.append(call)
        return call


class Handle:
    """Replicas whose house may be full."""

    def __init__(self) -> None:
        self.probe, self.generate = Method(MODEL), Method()


@pytest.fixture
async def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setattr(remote, "PROBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(remote, "PROBE_PERIOD_S", 0.01)
    monkeypatch.setattr(remote, "SILENCE_S", 3_600.0)
    return Handle()


@pytest.fixture
async def service(handle: Handle) -> AsyncIterator[RayService]:
    receiver = OutputReceiver("127.0.0.1")
    service = RayService(cast("DeploymentHandle[Any]", handle), receiver, 30.0)
    await until(service, ready=True)
    yield service
    await service.shutdown()


async def until(service: RayService, *, ready: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await service.is_ready() != ready:  # noqa: ASYNC110 - found by a probe in the background
            await asyncio.sleep(0.005)


async def probed(handle: Handle, times: int = 3) -> None:
    """Wait until so many probes have been given up or answered."""
    begun = len(handle.probe.calls)
    async with asyncio.timeout(PATIENCE_S):
        while len(handle.probe.calls) <= begun + times:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)


async def first(outputs: AsyncGenerator[Output, None]) -> Output:
    return await anext(outputs)


async def test_a_probe_that_waits_behind_requests_is_no_absence(service: RayService, handle: Handle) -> None:
    running = asyncio.create_task(first(service.generate(WHOLE)))
    await asyncio.sleep(0)
    handle.probe.answer = None
    await probed(handle)
    assert await service.is_ready()
    handle.generate.calls[0].future.set_result(DONE)
    assert await running == DONE[0]
    await until(service, ready=False)  # nothing runs any more, and still no answer
    with pytest.raises(EngineUnavailable):
        await first(service.generate(WHOLE))


async def test_silence_is_believed_after_a_while(
    service: RayService, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = asyncio.create_task(first(service.generate(WHOLE)))
    await asyncio.sleep(0)
    handle.probe.answer = None
    await probed(handle, 2)
    assert await service.is_ready()
    monkeypatch.setattr(remote, "SILENCE_S", 0.01)
    await until(service, ready=False)
    handle.generate.calls[0].future.set_result(DONE)
    await running


async def test_a_request_that_dies_with_its_replica_is_believed_at_once(service: RayService, handle: Handle) -> None:
    others = [asyncio.create_task(first(service.generate(WHOLE))) for _ in range(2)]
    await asyncio.sleep(0)
    handle.probe.answer = None
    handle.generate.calls[0].future.set_exception(RayActorError())
    with pytest.raises(GenerationFailed):
        await others[0]
    await until(service, ready=False)
    await probed(handle)
    assert not await service.is_ready()  # the other one's call is still open, but nobody has answered since
    handle.probe.answer = MODEL
    await until(service, ready=True)
    handle.generate.calls[1].future.set_result(DONE)
    await others[1]


async def test_a_cancelled_request_is_no_absence(service: RayService, handle: Handle) -> None:
    running = asyncio.create_task(first(service.generate(WHOLE)))
    await asyncio.sleep(0)
    handle.generate.calls[0].future.set_exception(RequestCancelledError("r"))
    with pytest.raises(GenerationFailed, match="cancelled"):
        await running
    assert await service.is_ready()


async def test_a_full_queue_says_nothing_new_and_a_sick_engine_does(service: RayService, handle: Handle) -> None:
    handle.probe.answer = BackPressureError(num_queued_requests=9, max_queued_requests=8)
    await probed(handle)
    assert await service.is_ready()
    handle.probe.answer = Failure.of(EngineUnavailable("sick"))
    await until(service, ready=False)
    handle.probe.answer = BackPressureError(num_queued_requests=9, max_queued_requests=8)
    await probed(handle)
    assert not await service.is_ready()
