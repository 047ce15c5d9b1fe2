"""The way of one request, top to bottom: who asks, what is known of them, how to answer, what came of it.

    taste (one store read) → route → candidate plan → one engine call for all arms → choice → remembered for feedback

Scoring and choosing happen beside the engine (`serve.engines.best_of`), with the judge that is made here. Knows neither
HTTP nor Ray; what it asks of the store and of the engine are protocols. Whatever goes wrong on the personal side, the
answer is the base model's, and the report says why.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from router.candidates import PlanConfig
from router.reward import Rewards, score
from router.routing import RoutingConfig
from serve.artifacts.artifact import Artifact
from serve.config import PersonalizationConfig
from serve.engines.protocol import BestOf, GenerationRequest, MeasureRequest, Output, Verdict
from serve.errors import EngineUnavailable, InvalidRequest
from serve.metrics import Metrics
from serve.people import Candidates
from serve.planning import Options, Taste, base_arm, plan_arms, route_person, with_arms
from serve.report import Report, strongest
from serve.service import Service
from serve.tracing import NO_TRACER, Span, Tracer
from user_store.errors import StoreError
from user_store.types import CompletionRecord, UserKey

logger = logging.getLogger("palate.pipeline")


class People(Protocol):
    """What the pipeline asks of what is known about people."""

    @property
    def artifact(self) -> Artifact:
        """The artifact in service."""

    async def tastes(self, keys: Sequence[UserKey]) -> Sequence[Taste]:
        """Read people, all with the same artifact; one store read each. Raises StoreError."""

    async def announce(self, key: UserKey, completion_id: str, now: float) -> None:
        """Say whose answer is being made. Raises StoreError."""

    def record(
        self, key: UserKey, completion_id: str, candidates: Candidates, *, created_at: float
    ) -> CompletionRecord:
        """Make the record of an answer. Raises ValueError if there is nothing to learn from it."""

    async def remember(self, record: CompletionRecord) -> None:
        """Keep what an answer was chosen from. Raises StoreError."""


@dataclass(slots=True)
class Answer:
    """An answer on its way: iterate `outputs`; then `report` is complete."""

    outputs: AsyncGenerator[Output, None]
    report: Report


@dataclass(slots=True)
class _Plan:
    request: GenerationRequest
    report: Report
    span: Span


class Pipeline:
    """Answers requests; one a process."""

    def __init__(
        self,
        service: Service,
        people: People | None,
        config: PersonalizationConfig,
        metrics: Metrics,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """Compose the pipeline; without people every answer is the base model's."""
        self._service = service
        self._people = people
        self._config = config
        self._metrics = metrics
        self._tracer = tracer
        self._routing = RoutingConfig(gate=config.steering_gate)
        self._background: set[asyncio.Task[None]] = set()

    async def answer(self, request: GenerationRequest, persons: Sequence[UserKey], options: Options) -> Answer:
        """Decide how to answer; the engine starts with the first output.

        Raises:
            InvalidRequest: the options do not fit this server or its artifact.
        """
        started = time.perf_counter()
        self._check(options)
        span = self._tracer.begin("answer")
        try:
            plan = await self._plan(request, persons, options, span)
        except BaseException as error:
            span.end(error)
            raise
        report = plan.report
        report.routing_s = time.perf_counter() - started
        self._metrics.routing_seconds.observe(report.routing_s)
        self._metrics.answers.labels("on" if report.is_personalized else report.reason).inc()
        return Answer(self._run(plan, persons[0] if persons else None), report)

    async def rewards(
        self, request: MeasureRequest, persons: Sequence[UserKey], options: Options
    ) -> tuple[Rewards, Report]:
        """Judge given answers by what a person, or with nobody named everyone, likes.

        Raises:
            InvalidRequest: no artifact fits this server's model, or the options do not fit.
            EngineUnavailable: the engine or, for a person, the store cannot be asked.
        """
        self._check(options)
        span = self._tracer.begin("judge")
        try:
            return await self._rewards(request, persons, options, span)
        finally:
            span.end()

    async def shutdown(self) -> None:
        """Wait for what is still being remembered."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _rewards(
        self, request: MeasureRequest, persons: Sequence[UserKey], options: Options, span: Span
    ) -> tuple[Rewards, Report]:
        people = self._people
        if people is None or not await self._fits(people.artifact):
            raise InvalidRequest("There is no artifact for this server's model: texts cannot be judged.", param="model")
        report = Report("no_user")
        tastes: Sequence[Taste] = ()
        try:
            with span.stage("taste"):
                tastes = await people.tastes(persons)
        except StoreError as error:
            logger.warning("texts are judged by everyone's taste: %s", type(error).__name__)
            report.reason, report.degraded = "degraded", "store"
        artifact = tastes[0].artifact if tastes else people.artifact
        _check_weights(options, artifact)
        report.artifact = artifact.version
        with span.stage("route"):
            report.routes = tuple(route_person(taste, artifact, self._routing, options) for taste in tastes or (None,))
        report.is_personalized = any(taste.posterior is not None for taste in tastes)
        if tastes:
            report.reason = "on" if report.is_personalized else "no_feedback"
        with span.stage("measure"):
            features = await self._service.measure(request)
        report.num_tokens = sum(features.counts)
        unmeasured = np.array([count == 0 for count in features.counts])
        phi = artifact.readout(np.where(unmeasured[:, None], artifact.population.center, features.values))
        with span.stage("score"):
            return score(phi, report.routes[0].judge), report

    def _check(self, options: Options) -> None:
        limit = self._config.max_best_of
        if options.best_of is not None and options.best_of > limit:
            raise InvalidRequest(f"best_of may be at most {limit} here.", param="palate.best_of")

    async def _plan(
        self, request: GenerationRequest, persons: Sequence[UserKey], options: Options, span: Span
    ) -> _Plan:
        people = self._people
        serving = people.artifact if people is not None else None
        _check_weights(options, serving)
        if not self._config.enabled or options.is_off:
            return _Plan(request, Report("off"), span)
        if not persons and not options.weights:
            return _Plan(request, Report("no_user"), span)
        if people is None or serving is None or not await self._fits(serving):
            return _Plan(request, Report("no_artifact"), span)
        try:
            with span.stage("taste"):
                tastes = await people.tastes(persons)
        except StoreError as error:
            logger.warning("personalization is off for this request: %s", type(error).__name__)
            degraded = Report("degraded", artifact=serving.version, degraded="store", explain=options.explain)
            return _Plan(request, degraded, span)
        artifact = tastes[0].artifact if tastes else serving  # from here on the one that reads these people
        if artifact is not serving:
            _check_weights(options, artifact)
        report = Report("no_feedback", artifact=artifact.version, explain=options.explain)
        if len(tastes) == 1 and tastes[0].assignment is not None:
            report.experiment = tastes[0].assignment
            self._metrics.experiment_answers.labels(*report.experiment).inc()
        with span.stage("route"):
            routes = tuple(route_person(taste, artifact, self._routing, options) for taste in tastes or (None,))
        report.routes = routes
        if all(route.is_zero for route in routes):
            report.reason = "no_feedback" if options.strength > 0 else "off"
            report.arms = (base_arm(artifact),) * request.sampling.n
            return _Plan(with_arms(request, artifact, report.arms, BestOf(num_best=request.sampling.n)), report, span)
        with span.stage("plan"):
            return _Plan(self._personal_request(request, artifact, options, report), report, span)

    def _personal_request(
        self, request: GenerationRequest, artifact: Artifact, options: Options, report: Report
    ) -> GenerationRequest:
        config, n = self._config, request.sampling.n
        num_arms = max(n, options.best_of or config.best_of)
        rng = np.random.default_rng(None if request.sampling.seed is None else request.sampling.seed % 2**63)
        explore = config.explore if options.explore is None else options.explore
        report.arms = plan_arms(report.routes, artifact, PlanConfig(num_arms, explore=explore), rng, request, config)
        report.is_personalized, report.reason = True, report.routes[0].steering
        report.attributes = strongest(report.routes[0], artifact)
        is_halving = config.halving if options.is_halving is None else options.is_halving
        rules = BestOf(
            readout=artifact.readout,
            judges=tuple(route.judge for route in report.routes),
            aggregate=options.aggregate,
            gate=config.gate,
            checkpoints=config.checkpoints if is_halving and num_arms > n else (),
            num_best=n,
        )
        if num_arms == 1:  # the person's own arm alone: nothing to choose from
            rules = BestOf()
        return with_arms(request, artifact, report.arms, rules)

    async def _fits(self, artifact: Artifact) -> bool:
        try:
            model = await self._service.model()
        except EngineUnavailable:
            return True  # the request itself will say so
        return model.feature_space == artifact.feature_space.id

    async def _run(self, plan: _Plan, person: UserKey | None) -> AsyncGenerator[Output, None]:
        request, report, span = plan.request, plan.report, plan.span
        created_at = time.time()
        announcing: asyncio.Task[None] | None = None
        people = self._people if request.arms else None
        if person is not None and people is not None:
            announcing = asyncio.create_task(_announce(people, person, request.request_id, created_at))
        outputs = self._service.generate(request)
        answers: dict[int, list[str]] = {}
        failure: BaseException | None = None
        try:
            with span.stage("generate"):
                async for output in outputs:
                    if announcing is not None:
                        await announcing  # feedback may come as soon as the first byte is out
                        announcing = None
                    report.verdict = output.verdict or report.verdict
                    for delta in output.deltas:
                        answers.setdefault(delta.index, []).append(delta.text)
                    yield output
        except BaseException as error:
            failure = error
            raise
        finally:
            await outputs.aclose()
            if announcing is not None:
                announcing.cancel()
            _describe(span, request, report)
            span.end(failure)
        if report.verdict is not None:
            self._count(report, report.verdict, is_halving=bool(request.best_of and request.best_of.checkpoints))
            if person is not None and people is not None:
                texts = ["".join(answers[index]) for index in sorted(answers)]
                keeping = asyncio.create_task(
                    _keep(people, person, request.request_id, created_at, report, texts, span)
                )
                self._background.add(keeping)
                keeping.add_done_callback(self._background.discard)

    def _count(self, report: Report, verdict: Verdict, *, is_halving: bool) -> None:
        metrics, num_tokens = self._metrics, verdict.num_tokens
        metrics.candidates.inc(len(num_tokens))
        served = sum(num_tokens[arm] for arm in verdict.order)
        metrics.candidate_tokens.labels("served").inc(served)
        metrics.candidate_tokens.labels("spent").inc(sum(num_tokens) - served)
        if is_halving:
            longest = max(num_tokens[arm] for arm in verdict.order)
            metrics.halving_saved_tokens.inc(sum(max(0, longest - count) for count in num_tokens))
        if report.is_personalized:
            winner, route = verdict.order[0], report.routes[0]
            metrics.choosing_seconds.observe(verdict.choosing_s)
            metrics.choices.labels(verdict.reason).inc()
            metrics.served_arms.labels(report.arms[winner].kind).inc()
            metrics.certainty.observe(route.certainty)
            if math.isfinite(verdict.rewards[winner]):
                prototype = str(int(route.mixture_weights.argmax()))
                metrics.reward_gain.labels(prototype).observe(verdict.rewards[winner])


def _describe(span: Span, request: GenerationRequest, report: Report) -> None:
    span.note("id", request.request_id)
    span.note("reason", "on" if report.is_personalized else report.reason)
    if report.verdict is not None:
        span.note("candidates", len(report.verdict.num_tokens))
        span.note("tokens", sum(report.verdict.num_tokens))
        span.note("choosing_seconds", report.verdict.choosing_s)


def _check_weights(options: Options, artifact: Artifact | None) -> None:
    known = {name for name in artifact.population.attribute_names if name} if artifact else set()
    unknown = sorted(set(options.weights) - known)
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidRequest(f"There is no attribute '{unknown[0]}'; attributes: {names}.", param="palate.weights")


async def _announce(people: People, person: UserKey, completion_id: str, now: float) -> None:
    try:
        await people.announce(person, completion_id, now)
    except StoreError as error:
        logger.warning("an answer could not be announced to the store: %s", type(error).__name__)


async def _keep(
    people: People,
    person: UserKey,
    completion_id: str,
    created_at: float,
    report: Report,
    answers: Sequence[str],
    span: Span,
) -> None:
    verdict = report.verdict
    if verdict is None or verdict.feature_space != people.artifact.feature_space.id:
        return
    arms = [arm.kind for arm in report.arms]
    candidates = Candidates(verdict.features_array(), arms, verdict.order, answers, report.artifact)
    try:
        with span.stage("remember"):
            await people.remember(people.record(person, completion_id, candidates, created_at=created_at))
    except StoreError as error:
        logger.warning("an answer could not be remembered for feedback: %s", type(error).__name__)
    except ValueError:
        logger.info("an answer was too short to be measured")
