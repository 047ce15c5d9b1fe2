"""A service over engine replicas: what an ingress replica asks, and how it notices that nobody answers.

Requests go by Ray Serve's handle, tokens come back by `serve.transport`. Readiness is watched in the background, so
that requests fail at once, and not after a wait, while no engine is up. Probes queue like requests do, so overload must
not be taken for an absence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from serve.engines.protocol import Features, GenerationRequest, MeasureRequest, ModelInfo, Output
from serve.errors import DeadlineExceeded, EngineUnavailable, GenerationFailed, Overloaded, PalateError
from serve.transport import Failure, Frame, OutputReceiver, ReplyTo

logger = logging.getLogger("palate.remote")

PROBE_PERIOD_S = 0.5
PROBE_TIMEOUT_S = 5.0
SILENCE_S = 60.0  # with requests in flight, a probe that gets no turn is believed only after so much silence
LAST_FRAME_TIMEOUT_S = 5.0


class RayService:
    """Asks the engine deployment behind a handle."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        receiver: OutputReceiver,
        timeout_s: float,
        tell_ready: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Start watching; must be called on the event loop that serves requests. `tell_ready` hears 1 or 0."""
        self._tell_ready = tell_ready
        self._handle = handle
        self._receiver = receiver
        self._timeout_s = timeout_s
        self._model: ModelInfo | None = None
        self._is_ready = False
        self._num_running = 0
        self._heard_at = 0.0  # the last sign of life, on the monotonic clock
        self._probe_now = asyncio.Event()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def is_ready(self) -> bool:
        """Tell what the last probe found, at most half a second old."""
        return self._is_ready

    async def model(self) -> ModelInfo:
        """Describe the model, from the last probe."""
        if self._model is None:
            raise EngineUnavailable("No engine is up yet.")
        return self._model

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        """Generate on some replica; closing the generator cancels it there."""
        self._check_ready()
        request = msgspec.structs.replace(request, sent_at=time.time())
        answers = self._stream(request) if request.is_streaming else self._whole(request)
        self._num_running += 1
        try:
            async for output in answers:
                self._heard_at = time.monotonic()
                yield output
        finally:
            self._num_running -= 1
            await answers.aclose()

    async def measure(self, request: MeasureRequest) -> Features:
        """Read given answers on some replica."""
        self._check_ready()
        result: Features | Failure = await self._call(self._handle.measure.remote(request))
        if isinstance(result, Failure):
            raise result.error()
        return result

    async def shutdown(self) -> None:
        """Stop watching."""
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)
        await self._receiver.shutdown()

    async def _whole(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        result: list[Output] | Failure = await self._call(self._handle.generate.remote(request, None))
        if isinstance(result, Failure):
            raise result.error()
        for output in result:
            yield output

    def _check_ready(self) -> None:
        if not self._is_ready:
            raise EngineUnavailable("No engine is ready: it is starting, or being restarted.")

    async def _call(self, call: DeploymentResponse[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except BaseException as error:
            call.cancel()
            raise self._translated(error) from error

    async def _stream(self, request: GenerationRequest) -> AsyncGenerator[Output, None]:
        reply_to, queue = self._receiver.open()
        call = self._handle.generate.remote(request, reply_to)
        watched = asyncio.create_task(self._end_of_call(call, reply_to, queue))
        deadline = asyncio.get_running_loop().call_later(
            self._timeout_s, queue.put_nowait, _failed(reply_to, self._too_slow())
        )
        is_complete = False
        try:
            while True:
                frame = await queue.get()
                if frame.output is None:
                    is_complete = frame.failure is None
                    if frame.failure is not None:
                        raise frame.failure.error()
                    return
                yield frame.output
        finally:
            deadline.cancel()
            self._receiver.close(reply_to)
            if not is_complete:
                call.cancel()
            watched.cancel()

    async def _end_of_call(self, call: DeploymentResponse[Any], reply_to: ReplyTo, queue: asyncio.Queue[Frame]) -> None:
        """Turn the call's failure into the stream's; its success only if the last frame got lost."""
        try:
            await call
        except asyncio.CancelledError:
            raise
        except Exception as error:
            translated = self._translated(error)
            if isinstance(translated, PalateError):
                queue.put_nowait(_failed(reply_to, translated))
                return
            raise
        await asyncio.sleep(LAST_FRAME_TIMEOUT_S)
        queue.put_nowait(_failed(reply_to, GenerationFailed("The end of the answer was lost.")))

    def _too_slow(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"The answer took longer than {self._timeout_s:g} s.")

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, TimeoutError):
            return self._too_slow()
        if isinstance(error, BackPressureError):
            return Overloaded("The queue is full. Try again shortly.")
        if isinstance(error, RayTaskError):
            logger.error("an engine replica failed on a request", exc_info=error)
            return GenerationFailed("The engine failed on this request.")
        if isinstance(error, TaskCancelledError):  # the client left: no sign of an engine that is gone
            return GenerationFailed("The request was cancelled.")
        if isinstance(error, RayActorError | RayServeException | RayError):
            self._is_ready = False
            self._probe_now.set()
            return GenerationFailed("The engine went away during this request; it is being restarted.")
        return error

    async def _watch(self) -> None:
        while True:
            was_ready, self._is_ready = self._is_ready, await self._probe()
            self._tell_ready(float(self._is_ready))
            if was_ready != self._is_ready:
                logger.warning("the engine is %s", "ready" if self._is_ready else "not ready")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_PERIOD_S):
                    await self._probe_now.wait()
            self._probe_now.clear()

    async def _probe(self) -> bool:
        call = self._handle.probe.remote()
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                result: ModelInfo | Failure = await call
        except BackPressureError:
            return self._is_ready  # a full queue says nothing new
        except TimeoutError:
            call.cancel()
            return self._is_ready and self._is_busy()
        except (RayError, RayServeException):
            call.cancel()
            return False
        if isinstance(result, Failure):
            return False
        self._model, self._heard_at = result, time.monotonic()
        return True

    def _is_busy(self) -> bool:
        """Tell whether a probe may be waiting behind requests: they would fail if the engines were gone."""
        return self._num_running > 0 and time.monotonic() - self._heard_at < SILENCE_S


def _failed(reply_to: ReplyTo, error: PalateError) -> Frame:
    return Frame(reply_to.stream, failure=Failure.of(error))
