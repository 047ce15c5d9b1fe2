"""Best-of-N beside the engine: run the arms, measure, guard, choose; losers leave at checkpoints, the winner streams.

Runs in the engine's own process, so that losers' tokens and states never leave it. What is decided comes from `router`;
this module keeps count of what each arm has said. Knows nothing of people, stores, Ray or HTTP.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from router.groups import aggregate_gains, aggregate_probabilities
from router.reward import score
from router.selection import (
    CandidateStats,
    Choice,
    Reason,
    choose,
    degeneracy,
    guard_penalties,
    halving_schedule,
    saturated,
    survivors,
)
from serve.engines.protocol import (
    ARM_FAILED,
    BestOf,
    CandidateRun,
    Delta,
    Engine,
    Features,
    GenerationRequest,
    Output,
    ToolCallDelta,
    Verdict,
)
from serve.errors import GenerationFailed

Floats = NDArray[np.float64]
BASE = 0  # the position of the untouched base model in every plan


def generate(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Output, None]:
    """Generate in the way the request asks for: plainly, or by arms."""
    return best_of(engine, request) if request.arms else engine.generate(request)


async def best_of(engine: Engine, request: GenerationRequest) -> AsyncGenerator[Output, None]:
    """Generate a request's arms and yield the chosen answers, the winner as choice 0; the last output has the verdict.

    Without judges the arms themselves are yielded as they come. Closing the generator aborts every arm. An arm that
    breaks off is left out of the choice, even if it was chosen, as long as nothing of it has been yielded.

    Raises GenerationFailed if what is yielded cannot become complete.
    """
    rules = request.best_of
    if rules is None or not request.arms:
        raise ValueError("best_of needs a request with arms and rules")
    # Arms that may be stopped early must come token by token.
    is_stepwise = request.is_streaming or bool(rules.checkpoints)
    async with engine.candidates(msgspec.structs.replace(request, is_streaming=is_stepwise)) as run:
        contest = _Contest(rules, len(request.arms), run)
        async for output in run.outputs():
            contest.take(output)
            await contest.decide_if_due()
            if request.is_streaming and (deltas := contest.released()):
                yield contest.output(deltas)
        verdict = await contest.end()
        last = contest.released() if request.is_streaming else contest.whole_answers()
        yield contest.output(last, verdict)


@dataclass
class _ArmLog:
    """What one arm has said so far."""

    deltas: list[Delta] = field(default_factory=list)
    num_released: int = 0
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    has_failed: bool = False
    is_out: bool = False  # aborted, or broken off
    reward: float = math.nan  # over the base, as of the last time it was scored
    std: float = math.nan
    penalty: float = math.nan
    prob_over_base: float = 0.5

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_complete(self) -> bool:
        return self.finish_reason is not None and not self.has_failed

    def stats(self, num_tokens: int | None = None) -> CandidateStats:
        """Measure it, as it was after `num_tokens` tokens."""
        ids = self.token_ids if num_tokens is None else self.token_ids[:num_tokens]
        is_truncated = num_tokens is None and self.finish_reason == "length"
        return CandidateStats(len(ids), degeneracy(ids), is_truncated)


@dataclass(frozen=True)
class _Scores:
    """The contenders' standing; rows follow `arms`."""

    arms: tuple[int, ...]
    rewards: Floats  # over the base's, as of the last time it was scored; over the mean where it never was
    stds: Floats
    penalties: Floats
    prob_over_base: Floats

    @property
    def scores(self) -> Floats:
        return saturated(self.rewards) - self.penalties


class _Contest:
    """The state of one request's choice."""

    def __init__(self, rules: BestOf, num_arms: int, run: CandidateRun) -> None:
        self._rules = rules
        self._run = run
        self._arms = [_ArmLog() for _ in range(num_arms)]
        self._order: tuple[int, ...] | None = None if rules.judges else tuple(range(num_arms))
        self._choice: Choice | None = None
        self._stages = list(halving_schedule(num_arms, rules.checkpoints, rules.num_best)) if rules.judges else []
        self._num_prompt_tokens = self._num_cached_tokens = 0
        self._choosing_s = 0.0
        self._base_rewards: list[float] = []  # by each judge, as of the last time it was scored
        self._base_stats: CandidateStats | None = None  # as of then

    def take(self, output: Output) -> None:
        """Note one step."""
        self._num_prompt_tokens = max(self._num_prompt_tokens, output.num_prompt_tokens)
        self._num_cached_tokens = max(self._num_cached_tokens, output.num_cached_tokens)
        for delta in output.deltas:
            arm = self._arms[delta.index]
            if delta.finish_reason == ARM_FAILED:
                arm.has_failed = arm.is_out = True
                if arm.num_released or not self._rules.judges:  # nothing can stand in for it
                    raise _broken_off()
                continue
            arm.deltas.append(delta)
            arm.token_ids += delta.token_ids or ()
            arm.finish_reason = delta.finish_reason or arm.finish_reason

    async def decide_if_due(self) -> None:
        """Send losers away if every contender has reached the next checkpoint."""
        while self._stages and self._order is None:
            num_tokens, num_keep = self._stages[0]
            contenders = [index for index, arm in enumerate(self._arms) if not arm.is_out]
            is_due = all(
                arm.num_tokens >= num_tokens or arm.finish_reason for arm in (self._arms[index] for index in contenders)
            )
            if not is_due or not contenders:
                return
            self._stages.pop(0)
            if len(contenders) <= num_keep:
                continue
            started = time.perf_counter()
            features = await self._run.features(contenders, num_tokens - 1)
            standing = self._scores(contenders, features, num_tokens)
            base = contenders.index(BASE) if BASE in contenders else None
            kept = survivors(standing.scores, standing.prob_over_base, self._rules.gate, num_keep, base)
            losers = [arm for position, arm in enumerate(contenders) if position not in kept]
            for arm in losers:
                self._arms[arm].is_out = True
            await self._run.abort([arm for arm in losers if self._arms[arm].finish_reason is None])
            if num_keep == self._rules.num_best == 1:
                self._decide(standing)
            self._choosing_s += time.perf_counter() - started

    async def end(self) -> Verdict:
        """Decide if nothing is decided yet, and say how it went."""
        started = time.perf_counter()
        contenders = self._complete_contenders()
        features = await self._run.features(range(len(self._arms)))
        if contenders:
            self._decide(self._scores(contenders, features_of(features, contenders), None))
        self._choosing_s += time.perf_counter() - started
        order = self._order or ()
        choice = self._choice or Choice(order, Reason.ONLY if len(order) == 1 else Reason.NO_TASTE, 0.5)
        return Verdict(
            order=list(order),
            reason=str(choice.reason),
            prob_over_base=choice.prob_over_base,
            rewards=[arm.reward for arm in self._arms],
            stds=[arm.std for arm in self._arms],
            penalties=[arm.penalty for arm in self._arms],
            num_tokens=[arm.num_tokens for arm in self._arms],
            features=np.ascontiguousarray(features.values, dtype="<f4").tobytes(),
            num_features=int(features.values.shape[1]),
            feature_space=features.feature_space,
            choosing_s=self._choosing_s,
        )

    def released(self) -> list[Delta]:
        """Return the served answers' deltas that have not left yet, numbered as choices."""
        deltas: list[Delta] = []
        for choice, index in enumerate(self._order or ()):
            arm = self._arms[index]
            fresh = arm.deltas[arm.num_released :]
            arm.num_released = len(arm.deltas)
            deltas += [msgspec.structs.replace(delta, index=choice, token_ids=None) for delta in fresh]
        return deltas

    def whole_answers(self) -> list[Delta]:
        """Return each served answer as one delta."""
        return [joined(self._arms[index].deltas, choice) for choice, index in enumerate(self._order or ())]

    def output(self, deltas: list[Delta], verdict: Verdict | None = None) -> Output:
        """Make an output of deltas."""
        return Output(self._num_prompt_tokens, self._num_cached_tokens, deltas, verdict)

    def _complete_contenders(self) -> list[int]:
        """Return the arms to choose from at the end; none if the choice stands. Raises GenerationFailed."""
        if self._order is not None and all(self._arms[index].is_complete for index in self._order):
            return []
        complete = [index for index, arm in enumerate(self._arms) if arm.is_complete]
        standing = [index for index in complete if not self._arms[index].is_out]
        contenders = standing if len(standing) >= self._rules.num_best else complete  # losers that were done stand in
        is_open = self._order is None or not any(self._arms[index].num_released for index in self._order)
        if not self._rules.judges or not is_open or len(contenders) < self._rules.num_best:
            raise _broken_off()
        return contenders

    def _decide(self, standing: _Scores) -> None:
        num_best = min(self._rules.num_best, len(standing.arms))
        if BASE in standing.arms:
            base = standing.arms.index(BASE)
            choice = choose(standing.scores, standing.prob_over_base, self._rules.gate, base, num_best)
            order = tuple(standing.arms[position] for position in choice.order)
        else:  # the base broke off, or lost to a challenger at an earlier checkpoint
            ranked = sorted(range(len(standing.arms)), key=lambda position: (-standing.scores[position], position))
            order = tuple(standing.arms[position] for position in ranked[:num_best])
            reason = Reason.BASE_VETOED if self._arms[BASE].has_failed else Reason.REWARD
            choice = Choice(order, reason, float(standing.prob_over_base[ranked[0]]))
        self._order, self._choice = order, choice

    def _reference(self, stats: Sequence[CandidateStats], num_tokens: int | None) -> CandidateStats:
        """Return what the guards compare contenders with: the base, as it was when it was last seen.

        How long a base that was cut off would have become, nobody knows: then no contender is long.
        """
        base = self._arms[BASE]
        reference = self._base_stats or base.stats(num_tokens)
        if not base.is_out or (base.finish_reason is not None and base.num_tokens == reference.num_tokens):
            return reference
        return replace(reference, num_tokens=max(reference.num_tokens, *(one.num_tokens for one in stats)))

    def _scores(self, contenders: Sequence[int], features: Features, num_tokens: int | None) -> _Scores:
        """Score the contenders; an arm without states cannot win, and against a base without states nobody can."""
        readout, judges = self._rules.readout, self._rules.judges
        if readout is None:
            raise ValueError("judges need a readout")
        is_measured = np.array([count > 0 for count in features.counts])
        phi = readout(np.where(is_measured[:, None], features.values, 0.0).astype(np.float32))
        rewards = [score(phi, judge) for judge in judges]
        base = contenders.index(BASE) if BASE in contenders else None
        stats = [self._arms[index].stats(num_tokens) for index in contenders]
        if base is not None:
            self._base_stats = stats[base]
        penalties = guard_penalties([self._reference(stats, num_tokens), *stats], self._rules.limits)[1:]
        is_barred = ~is_measured if base is None or is_measured[base] else np.arange(len(contenders)) != base
        penalties = np.where(is_barred, math.inf, penalties)
        if base is not None:
            self._base_rewards = [float(reward.mean[base]) for reward in rewards]
        origins = self._base_rewards or [float(reward.mean.mean()) for reward in rewards]
        gains = np.stack([reward.mean - origin for reward, origin in zip(rewards, origins, strict=True)])
        if base is None:
            chances = np.tile([self._arms[index].prob_over_base for index in contenders], (len(judges), 1))
        else:
            chances = np.stack([reward.prob_over(base, penalties) for reward in rewards])
        rule = self._rules.aggregate
        standing = _Scores(
            arms=tuple(contenders),
            rewards=aggregate_gains(gains, rule) if len(judges) > 1 else gains[0],
            stds=np.stack([reward.std for reward in rewards]).mean(axis=0),
            penalties=penalties,
            prob_over_base=aggregate_probabilities(chances, rule) if len(judges) > 1 else chances[0],
        )
        for position, index in enumerate(contenders):
            arm = self._arms[index]
            arm.reward, arm.std = float(standing.rewards[position]), float(standing.stds[position])
            arm.penalty = float(standing.penalties[position])
            arm.prob_over_base = float(standing.prob_over_base[position])
        return standing


def _broken_off() -> GenerationFailed:
    return GenerationFailed("The engine broke off this answer.")


def features_of(features: Features, rows: Sequence[int]) -> Features:
    """Pick some rows."""
    return Features(features.feature_space, tuple(features.counts[row] for row in rows), features.values[list(rows)])


def joined(deltas: Sequence[Delta], index: int) -> Delta:
    """Join an answer's deltas into one, as if it had not been streamed."""
    calls: dict[int, ToolCallDelta] = {}
    for call in (call for delta in deltas for call in delta.tool_calls or ()):
        known = calls.get(call.index)
        if known is None:
            calls[call.index] = call
        else:
            arguments = known.arguments + call.arguments
            calls[call.index] = ToolCallDelta(call.index, known.id or call.id, known.name or call.name, arguments)
    has_logprobs = any(delta.logprobs is not None for delta in deltas)
    reasoning = "".join(delta.reasoning or "" for delta in deltas)
    return Delta(
        index=index,
        text="".join(delta.text for delta in deltas),
        num_tokens=sum(delta.num_tokens for delta in deltas),
        finish_reason=next((delta.finish_reason for delta in reversed(deltas) if delta.finish_reason), None),
        logprobs=[entry for delta in deltas for entry in delta.logprobs or ()] if has_logprobs else None,
        tool_calls=[calls[key] for key in sorted(calls)] or None,
        reasoning=reasoning or None,
    )
