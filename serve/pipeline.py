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
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
import numpy as np

from router.candidates import PlanConfig, pick_instruction, plan_candidates
from router.groups import Aggregate
from router.reward import Rewards, score
from router.routing import RoutingConfig, Wishes
from router.routing import route as find_route
from router.types import Arm, Posterior, Route
from serve.artifacts.artifact import Artifact
from serve.config import PersonalizationConfig
from serve.engines.protocol import BestOf, EngineArm, GenerationRequest, MeasureRequest, Output, Verdict
from serve.errors import EngineUnavailable, InvalidRequest
from serve.metrics import Metrics
from serve.people import Candidates
from serve.report import Report, strongest
from serve.service import Service
from user_store.errors import StoreError
from user_store.types import CompletionRecord, Profile, UserKey

logger = logging.getLogger("palate.pipeline")


class Taste(Protocol):
    """What one read of the store says about a person."""

    @property
    def profile(self) -> Profile:
        """What they decided about their model."""

    @property
    def artifact(self) -> Artifact:
        """The artifact they are read with now."""

    @property
    def posterior(self) -> Posterior | None:
        """What is believed about them under it; None without feedback that counts."""

    @property
    def assignment(self) -> tuple[str, str] | None:
        """The running experiment and their arm in it."""


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


@dataclass(frozen=True, slots=True)
class Options:
    """What the request asks of personalization; None leaves it to the operator."""

    best_of: int | None = None
    strength: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    aggregate: Aggregate = Aggregate.MEAN
    explore: float | None = None
    explain: bool = False
    is_off: bool = False
    is_halving: bool | None = None


@dataclass(slots=True)
class Answer:
    """An answer on its way: iterate `outputs`; then `report` is complete."""

    outputs: AsyncGenerator[Output, None]
    report: Report


class Pipeline:
    """Answers requests; one a process."""

    def __init__(
        self, service: Service, people: People | None, config: PersonalizationConfig, metrics: Metrics
    ) -> None:
        """Compose the pipeline; without people every answer is the base model's."""
        self._service = service
        self._people = people
        self._config = config
        self._metrics = metrics
        self._routing = RoutingConfig(gate=config.steering_gate)
        self._background: set[asyncio.Task[None]] = set()

    async def answer(self, request: GenerationRequest, persons: Sequence[UserKey], options: Options) -> Answer:
        """Decide how to answer; the engine starts with the first output.

        Raises:
            InvalidRequest: the options do not fit this server or its artifact.
        """
        started = time.perf_counter()
        self._check(options)
        plan = await self._plan(request, persons, options)
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
        people = self._people
        if people is None or not await self._fits(people.artifact):
            raise InvalidRequest("There is no artifact for this server's model: texts cannot be judged.", param="model")
        report = Report("no_user")
        tastes: Sequence[Taste] = ()
        try:
            tastes = await people.tastes(persons)
        except StoreError as error:
            logger.warning("texts are judged by everyone's taste: %s", type(error).__name__)
            report.reason, report.degraded = "degraded", "store"
        artifact = tastes[0].artifact if tastes else people.artifact
        _check_weights(options, artifact)
        report.artifact = artifact.version
        report.routes = tuple(_route(taste, artifact, self._routing, options) for taste in tastes or (None,))
        report.is_personalized = any(taste.posterior is not None for taste in tastes)
        features = await self._service.measure(request)
        report.num_tokens = sum(features.counts)
        unmeasured = np.array([count == 0 for count in features.counts])
        phi = artifact.readout(np.where(unmeasured[:, None], artifact.population.center, features.values))
        return score(phi, report.routes[0].judge), report

    async def shutdown(self) -> None:
        """Wait for what is still being remembered."""
        await asyncio.gather(*self._background, return_exceptions=True)

    def _check(self, options: Options) -> None:
        limit = self._config.max_best_of
        if options.best_of is not None and options.best_of > limit:
            raise InvalidRequest(f"best_of may be at most {limit} here.", param="palate.best_of")

    async def _plan(self, request: GenerationRequest, persons: Sequence[UserKey], options: Options) -> _Plan:
        people = self._people
        serving = people.artifact if people is not None else None
        _check_weights(options, serving)
        if not self._config.enabled or options.is_off:
            return _Plan(request, Report("off"))
        if not persons and not options.weights:
            return _Plan(request, Report("no_user"))
        if people is None or serving is None or not await self._fits(serving):
            return _Plan(request, Report("no_artifact"))
        try:
            tastes = await people.tastes(persons)
        except StoreError as error:
            logger.warning("personalization is off for this request: %s", type(error).__name__)
            degraded = Report("degraded", artifact=serving.version, degraded="store", explain=options.explain)
            return _Plan(request, degraded)
        artifact = tastes[0].artifact if tastes else serving  # from here on the one that reads these people
        if artifact is not serving:
            _check_weights(options, artifact)
        report = Report("no_feedback", artifact=artifact.version, explain=options.explain)
        if len(tastes) == 1 and tastes[0].assignment is not None:
            report.experiment = tastes[0].assignment
            self._metrics.experiment_answers.labels(*report.experiment).inc()
        routes = tuple(_route(taste, artifact, self._routing, options) for taste in tastes or (None,))
        report.routes = routes
        if all(route.is_zero for route in routes):
            report.reason = "no_feedback" if options.strength > 0 else "off"
            report.arms = (_base_arm(artifact),) * request.sampling.n
            return _Plan(_with_arms(request, artifact, report.arms, BestOf(num_best=request.sampling.n)), report)
        return self._personal_plan(request, artifact, options, report)

    def _personal_plan(self, request: GenerationRequest, artifact: Artifact, options: Options, report: Report) -> _Plan:
        config, n = self._config, request.sampling.n
        num_arms = max(n, options.best_of or config.best_of)
        rng = np.random.default_rng(None if request.sampling.seed is None else request.sampling.seed % 2**63)
        explore = config.explore if options.explore is None else options.explore
        report.arms = _arms(report.routes, artifact, PlanConfig(num_arms, explore=explore), rng, request, config)
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
        return _Plan(_with_arms(request, artifact, report.arms, rules), report)

    async def _fits(self, artifact: Artifact) -> bool:
        try:
            model = await self._service.model()
        except EngineUnavailable:
            return True  # the request itself will say so
        return model.feature_space == artifact.feature_space.id

    async def _run(self, plan: _Plan, person: UserKey | None) -> AsyncGenerator[Output, None]:
        request, report = plan.request, plan.report
        created_at = time.time()
        announcing: asyncio.Task[None] | None = None
        people = self._people if request.arms else None
        if person is not None and people is not None:
            announcing = asyncio.create_task(_announce(people, person, request.request_id, created_at))
        outputs = self._service.generate(request)
        answers: dict[int, list[str]] = {}
        try:
            async for output in outputs:
                if announcing is not None:
                    await announcing  # feedback may come as soon as the first byte is out
                    announcing = None
                report.verdict = output.verdict or report.verdict
                for delta in output.deltas:
                    answers.setdefault(delta.index, []).append(delta.text)
                yield output
        finally:
            await outputs.aclose()
            if announcing is not None:
                announcing.cancel()
        if report.verdict is not None:
            self._count(report, report.verdict, is_halving=bool(request.best_of and request.best_of.checkpoints))
            if person is not None and people is not None:
                texts = ["".join(answers[index]) for index in sorted(answers)]
                keeping = asyncio.create_task(_keep(people, person, request.request_id, created_at, report, texts))
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


@dataclass(slots=True)
class _Plan:
    request: GenerationRequest
    report: Report


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
    people: People, person: UserKey, completion_id: str, created_at: float, report: Report, answers: Sequence[str]
) -> None:
    verdict = report.verdict
    if verdict is None or verdict.feature_space != people.artifact.feature_space.id:
        return
    arms = [arm.kind for arm in report.arms]
    candidates = Candidates(verdict.features_array(), arms, verdict.order, answers, report.artifact)
    try:
        await people.remember(people.record(person, completion_id, candidates, created_at=created_at))
    except StoreError as error:
        logger.warning("an answer could not be remembered for feedback: %s", type(error).__name__)
    except ValueError:
        logger.info("an answer was too short to be measured")


def _route(taste: Taste | None, artifact: Artifact, config: RoutingConfig, options: Options) -> Route:
    """Route one person; what they pinned or barred is not inferred, and pins count as wishes of their own."""
    space, names = artifact.space, artifact.population.attribute_names
    weights, fixed = dict(options.weights), set[str]()
    if taste is not None and options.strength > 0:
        pins = {name: level for name, level in taste.profile.pins.items() if name in names}
        weights, fixed = {**pins, **weights}, {*pins, *taste.profile.bars}
    posterior = taste.posterior if taste is not None else None
    rows = [row for row, name in enumerate(names) if name and name in fixed]
    if posterior is None or not rows:
        return find_route(posterior, space, config, Wishes(options.strength, weights))
    inferred = find_route(posterior, space, config, Wishes(options.strength))
    base = space.population.base_weights
    wished = find_route(None, space, config, Wishes(0.0, weights)) if weights else None
    directions = space.response[rows]  # (J, D): what a taste, or a steering, does to the fixed attributes
    nothing = np.zeros(len(rows))
    taste_left = inferred.taste.conditioned(directions, nothing)
    deviation = taste_left.mean - space.prior.conditioned(directions, nothing).mean
    coefficients = (inferred.dose > 0.0) * inferred.pull_per_taste * deviation * space.mask
    judge = inferred.judge.conditioned(directions, directions @ base)
    if wished is not None:
        coefficients = coefficients + wished.steering_coefficients
        judge = judge.affine(1.0, wished.judge.mean - base)
    coefficients, dose = space.limited(coefficients)
    return replace(
        inferred,
        steering_coefficients=coefficients,
        dose=dose,
        steering="explicit" if inferred.dose == 0.0 and dose > 0.0 else inferred.steering,
        judge=judge,
        taste=taste_left,
        anchor=taste_left.mean,
    )


def _arms(
    routes: Sequence[Route],
    artifact: Artifact,
    plan: PlanConfig,
    rng: np.random.Generator,
    request: GenerationRequest,
    config: PersonalizationConfig,
) -> tuple[Arm, ...]:
    """Plan the arms of one person, or let several take turns: everyone's own arm before anyone's neighbours."""
    plans = []
    for route in routes:
        instruction = None
        if request.chat is not None and config.instructions and artifact.instruction_effects is not None:
            picked = pick_instruction(route.judge, artifact.instruction_effects, config.steering_gate)
            instruction = None if picked is None else artifact.instructions[picked]
        plans.append(plan_candidates(route, artifact.space, plan, rng, instruction).arms)
    if len(plans) == 1:
        return plans[0]
    base, *_ = plans[0]
    if plan.num_arms == 1:
        return (base,)
    turns = [arm for rank in zip(*(arms[1:] for arms in plans), strict=True) for arm in rank]
    return (base, *turns[: plan.num_arms - 1])


def _with_arms(request: GenerationRequest, artifact: Artifact, arms: Sequence[Arm], rules: BestOf) -> GenerationRequest:
    single = msgspec.structs.replace(request.sampling, n=1)
    engine_arms: tuple[EngineArm, ...] = tuple(artifact.engine_arm(arm) for arm in arms)
    return msgspec.structs.replace(request, sampling=single, arms=engine_arms, best_of=rules)


def _base_arm(artifact: Artifact) -> Arm:
    return Arm("base", np.zeros(artifact.population.num_features))
