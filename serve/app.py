"""The Ray Serve application: an ingress deployment (HTTP) in front of an engine deployment.

`build` is the typed builder, usable as `serve run serve.app:build`. The bare name `serve` means Ray's here.
"""

# Annotations are evaluated here: Ray Serve reads the builder's to validate its arguments.
import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import Receive, Scope, Send

from serve import __version__
from serve.api.application import create_app
from serve.api.context import ApiContext
from serve.arrival import Arrival, introduce
from serve.config import Config, Secrets, load
from serve.engines.best_of import generate
from serve.engines.factory import create_engine
from serve.engines.protocol import Features, GenerationRequest, MeasureRequest, ModelInfo, Output, Sampling
from serve.errors import ConfigurationError, PalateError
from serve.home import Home
from serve.keys import KeyFile
from serve.listener import Listener
from serve.logs import configure_logs
from serve.memory import limiter_of, open_memory
from serve.metrics import Metrics
from serve.remote import RayService
from serve.tracing import open_tracer
from serve.transport import Failure, OutputReceiver, OutputSender, ReplyTo

logger = logging.getLogger("palate.app")

CANARY_PERIOD_S = 30.0
INGRESS_MAX_ONGOING_REQUESTS = 100_000  # the engine deployment's limits decide; they answer 429


class EngineDeployment:
    """Hosts one engine; Ray Serve replicates, scales and restarts it."""

    async def __init__(self, config: Config, home: str) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        configure_logs(config.log)
        self._engine = create_engine(config, Home(Path(home)))
        await self._engine.start()
        self._sender = OutputSender()
        self._metrics = Metrics()
        self._metrics.engine_starts.inc()
        self._last_token_at = 0.0
        await self._generate_canary()

    async def generate(self, request: GenerationRequest, reply_to: ReplyTo | None) -> list[Output] | Failure | None:
        """Generate; with `reply_to` the outputs go there as they come, otherwise they are returned.

        Errors the client should see are values, so that Ray does not wrap and log them.
        """
        outputs: list[Output] = []
        if request.sent_at:
            self._metrics.queue_seconds.observe(max(0.0, time.time() - request.sent_at))

        def take(output: Output) -> None:
            self._last_token_at = time.monotonic()
            self._metrics.completion_tokens.inc(sum(delta.num_tokens for delta in output.deltas))
            if reply_to is None:
                outputs.append(output)
            else:
                self._sender.send(reply_to, output)

        failure: Failure | None = None
        output: Output | None = None
        with self._metrics.generations_running.track_inprogress():
            try:
                async for output in generate(self._engine, request):
                    take(output)
            except PalateError as error:
                failure = Failure.of(error)
        if output is not None:
            self._metrics.prompt_tokens.inc(output.num_prompt_tokens)
            self._metrics.cached_prompt_tokens.inc(output.num_cached_tokens)
        if reply_to is None:
            return failure or outputs
        self._sender.send(reply_to, failure=failure)
        return None

    async def measure(self, request: MeasureRequest) -> Features | Failure:
        """Read given answers."""
        try:
            return await self._engine.measure(request)
        except PalateError as error:
            return Failure.of(error)

    async def probe(self) -> ModelInfo | Failure:
        """Describe the model, if a token can be generated."""
        try:
            await self._engine.check_health()
            if time.monotonic() - self._last_token_at > CANARY_PERIOD_S:
                await self._generate_canary()
        except PalateError as error:
            return Failure.of(error)
        return self._engine.model

    async def check_health(self) -> None:
        """Ray Serve's health check: raising gets the replica replaced."""
        await self._engine.check_health()

    async def __del__(self) -> None:
        """Ray Serve awaits this when a replica is stopped."""
        with contextlib.suppress(AttributeError):  # a replica whose start failed
            self._sender.close()
            await self._engine.shutdown()

    async def _generate_canary(self) -> None:
        canary = GenerationRequest(
            request_id=f"canary-{time.monotonic_ns()}", text="1", sampling=Sampling(max_tokens=1)
        )
        async for _ in self._engine.generate(canary):
            self._last_token_at = time.monotonic()


class _ReplicaApp:
    """The ASGI application of whichever ingress replica this process is, for requests that come by Ray's proxies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _no_lifespan(receive, send)
            return
        ingress: Any = serve.get_replica_context().servable_object
        await ingress.application(scope, receive, send)


async def _no_lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"].removeprefix("lifespan.")
        await send({"type": f"lifespan.{kind}.complete"})
        if kind == "shutdown":
            return


@serve.ingress(_ReplicaApp())
class IngressDeployment:
    """Speaks HTTP; knows the engines only by their handle.

    It may listen itself instead of behind Ray's proxies; replicas on one node then share the port.
    """

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, config: Config, secrets: Secrets, home: str, engine: DeploymentHandle[Any], is_listening: bool
    ) -> None:
        configure_logs(config.log)
        receiver = OutputReceiver(ray.util.get_node_ip_address())
        metrics, folder = Metrics(), Home(Path(home))
        metrics.info.labels(__version__, config.model.name, config.engine.kind).set(1)
        self._service = RayService(
            engine, receiver, config.http.request_timeout_s, metrics.ready.labels(config.model.name).set
        )
        self._memory = await open_memory(config, secrets, folder, self._service, metrics)
        self._context = ApiContext(
            self._service,
            config,
            secrets,
            metrics,
            people=self._memory.people if self._memory else None,
            desk=self._memory.desk if self._memory else None,
            keys=KeyFile(folder.keys),
            limiter=limiter_of(config, secrets, folder, metrics),
            tracer=open_tracer(config.tracing, config.model.name),
        )
        self.application = create_app(self._context)
        arrival = Arrival(config, secrets, folder, self._service, metrics)
        self._arriving = (
            asyncio.create_task(self._begin(arrival)) if self._memory is None and arrival.is_expected else None
        )
        self._listener = Listener(self.application, config) if is_listening else None

    async def _begin(self, arrival: Arrival) -> None:
        """Know people once there is an artifact to read them with."""
        try:
            self._memory = await arrival.memory()
        except ConfigurationError as error:  # such as a store of another layout
            logger.critical("answers stay the base model's: %s", error.message)
            return
        before, self._context = self._context, introduce(self.application, self._memory)
        await before.pipeline.shutdown()

    async def check_health(self) -> None:
        """Ray Serve's health check: raising gets the replica replaced."""
        if self._listener is not None:
            self._listener.check_health()

    async def __del__(self) -> None:
        """Ray Serve awaits this when a replica is stopped."""
        with contextlib.suppress(AttributeError):  # a replica whose start failed
            if self._listener is not None:
                await self._listener.shutdown()
            if self._arriving is not None:
                self._arriving.cancel()
                await asyncio.gather(self._arriving, return_exceptions=True)
            await self._context.pipeline.shutdown()
            if self._memory is not None:
                await self._memory.close()
            if self._context.limiter is not None:
                await self._context.limiter.close()
            await asyncio.to_thread(self._context.tracer.close)
            await self._service.shutdown()


def build(config: Config) -> Application:
    """Compose the application for a cluster whose Ray Serve proxies carry the traffic.

    `serve run serve.app:build` calls it; without arguments the file that `PALATE_CONFIG` names is used, if any.
    """
    return compose(load() if config == Config() else config, is_listening=False)


def compose(config: Config, *, is_listening: bool) -> Application:
    """Compose the application; with `is_listening` the ingress replicas listen themselves."""
    secrets = Secrets.from_env()
    home = Home.from_env().create()
    engine = config.engine
    scaling: dict[str, Any] = {"num_replicas": engine.num_replicas}
    if engine.autoscaling is not None:
        scaling = {"autoscaling_config": engine.autoscaling.model_dump()}
    engines = serve.deployment(
        name="Engine",
        ray_actor_options={"num_cpus": engine.num_cpus, "num_gpus": engine.num_gpus},
        max_ongoing_requests=engine.max_ongoing_requests,
        max_queued_requests=engine.max_queued_requests,
        health_check_period_s=engine.health_check_period_s,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=engine.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,  # a wrong configuration should say so soon
        **scaling,
    )(EngineDeployment)
    ingress = serve.deployment(
        name="Ingress",
        num_replicas=config.http.num_replicas,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=INGRESS_MAX_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=engine.drain_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
    )(IngressDeployment)
    return ingress.bind(config, secrets, str(home.path), engines.bind(config, str(home.path)), is_listening)
