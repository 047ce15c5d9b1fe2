"""A population fitted from everyone's feedback on top of the artifact in service.

The parent's directions stay, so that what people were told about their tastes keeps its meaning; further ones and the
shared reward are learned. The prior is drawn to the parent's as by `parent_people` more people, and further where one
person would move it too much. A prototype stands for at least `min_people`. People left out say whether the candidate
predicts better. Knows neither stores nor files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.em import HERE, Run
from router.feedback import FeedbackTable
from router.held_out import GroupReport, report_groups
from router.population import FeatureLayout, FitConfig, fit_population
from router.types import Array, Population
from serve.artifacts.artifact import Artifact
from serve.engines.feature_space import FeatureSpace
from serve.errors import ConfigurationError
from serve.jobs.fit.freedom import choose_freedom
from serve.jobs.fit.influence import capped, largest_move, largest_share

PROTOTYPES = (1, 2, 4, 8)
LONG_ENOUGH = 4  # events of a person who can say something about the fit
FEWEST_JUDGES = 2


@dataclass(frozen=True)
class RefitConfig:
    """How a population is fitted from feedback."""

    rank: int = 4  # directions learned beyond the parent's
    people_per_direction: int = 50  # fewer people teach fewer directions
    min_people: int = 20  # of a prototype, and in all
    parent_people: float = 50.0  # how many people the parent's prior counts for
    max_share: float = 0.05  # of all evidence that one person may hold
    max_move: float = 0.25  # logits by which one person's removal may change a prototype's reward of answers
    odd_share: float = 0.1  # of people, at most, who are left out because they are no evidence about the others
    held_out_share: float = 0.2  # of people, by their places
    em_iterations: int = 10
    max_choosing: int = 2_000  # people on whom prototypes are chosen; all the others join in the last steps
    max_judges: int = 2_000  # of the people held out, those of the lowest places
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """How a population predicts people it was not fitted to."""

    accuracy: float
    log_loss: float  # nats a judgement
    worst_log_loss: float  # of the group served worst
    num_people: int

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        return {name: getattr(self, name) for name in ("accuracy", "log_loss", "worst_log_loss", "num_people")}


@dataclass(frozen=True, eq=False)
class Refit:
    """What a fit came to."""

    artifact: Artifact
    candidate: Verdict
    parent: Verdict  # on the same held-out people
    move: float  # of a prototype's reward by one person's removal, in logits
    parent_share: float  # of the prior
    largest_share: float  # of the evidence, that one person holds
    num_people: int  # learned from
    num_left_out: int  # of these, who were no evidence about the others


def refit(parent: Artifact, table: FeedbackTable, places: Array, config: RefitConfig, run: Run = HERE) -> Refit:
    """Fit an artifact to the people whose `places` (U,) are not among the lowest; these, or many of them, judge.

    Raises:
        ConfigurationError: too few people.
    """
    told = np.bincount(table.people, minlength=table.num_people) >= LONG_ENOUGH
    is_held_out = places < config.held_out_share
    held_out = np.flatnonzero(told & is_held_out)
    held_out = np.sort(held_out[np.argsort(places[held_out], kind="stable")[: config.max_judges]])
    num_told = int((told & ~is_held_out).sum())
    if num_told < config.min_people or len(held_out) < FEWEST_JUDGES:
        raise ConfigurationError(
            f"{num_told} people to learn from and {len(held_out)} held out gave {LONG_ENOUGH} judgements or more; "
            f"at least {config.min_people} and {FEWEST_JUDGES} are needed."
        )
    learned = capped(table.subset(np.flatnonzero(~is_held_out)), config.max_share)
    questions = table.subset(held_out)
    population, num_left_out, move, share = _fit(parent, learned, config, run)
    return Refit(
        artifact=_artifact(parent, population, learned),
        candidate=_verdict(population, questions),
        parent=_verdict(parent.population, questions),
        move=move,
        parent_share=share,
        largest_share=largest_share(learned),
        num_people=learned.num_people,
        num_left_out=num_left_out,
    )


def _fit(parent: Artifact, table: FeedbackTable, config: RefitConfig, run: Run) -> tuple[Population, int, float, float]:
    """Return the population, how many were left out, how far one person moves it, the parent's share in its prior."""
    population = parent.population
    rank = min(config.rank, table.num_people // config.people_per_direction)
    sizes = [K for K in PROTOTYPES if K == 1 or table.num_people >= 2 * K * config.min_people]
    spreads = _spreads(parent.feature_space)
    own = FeatureLayout(
        center=population.center,
        scale=population.scale,
        base_scales=spreads,
        taste_scales=spreads,
        fixed_rows=_own_rows(parent),
        names=population.attribute_names[: len(_own_rows(parent))] or ("",) * len(_own_rows(parent)),
    )
    fitting = FitConfig(
        num_prototypes=tuple(sizes),
        em_iterations=config.em_iterations,
        max_choosing=config.max_choosing,
        odd_share=config.odd_share,
    )
    fitting = replace(fitting, basis=choose_freedom(table, own, fitting, rank, run, config.seed))
    fitted, report = fit_population(table, own, fitting, config.seed, run)
    smallest = float(fitted.mixture_weights.min()) * table.num_people
    if fitted.num_prototypes > 1 and smallest < config.min_people:
        fitted, report = fit_population(table, own, replace(fitting, num_prototypes=(1,)), config.seed, run)
    move = largest_move(fitted, table, fitting, run.map_people, config.max_move)
    share = config.parent_people / (config.parent_people + table.num_people)
    share = max(
        share, 1.0 - config.max_move / max(move, config.max_move)
    )  # everything moves by what is not the parent's
    return drawn_to(fitted, population, share), report.num_left_out, (1.0 - share) * move, share


def _spreads(space: FeatureSpace) -> Array:
    """How far each feature reaches in the model's states, (P,), of unit mean square.

    Features have unit variance, however small a movement of the states they stand for. Weighed by these, a ridge is one
    over the states themselves: what is learned leans on the large movements, as it must where comparisons are few.
    """
    lengths = np.linalg.norm(space.projection.basis.astype(np.float64), axis=1)
    spreads = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0.0)
    return np.asarray(spreads / np.sqrt(np.mean(spreads**2)))


def _own_rows(parent: Artifact) -> Array:
    """The parent's directions of taste; its shared reward is learned anew."""
    population = parent.population
    is_shared = population.base_weights != 0.0  # a row that only the shared reward uses is the fit's last one
    is_shared[:-1] = False
    return np.asarray(population.basis[~is_shared])


def drawn_to(fitted: Population, parent: Population, share: float) -> Population:
    """Return the fitted prior averaged with the parent's, which counts for `share` of it.

    In directions that the parent does not have, its prior is that nobody deviates.
    """
    D = min(len(parent.basis), len(fitted.basis))
    shared = int(np.sum(np.all(np.isclose(fitted.basis[:D], parent.basis[:D]), axis=1)))
    mean = parent.mixture_weights @ parent.prior_means  # (L,)
    centered = parent.prior_means - mean
    spread = np.einsum("k,kij->ij", parent.mixture_weights, parent.prior_covariances)
    spread = spread + (parent.mixture_weights[:, None] * centered).T @ centered
    means, covariances = np.array(fitted.prior_means), np.array(fitted.prior_covariances)
    own = [*range(shared), parent.num_features]  # and the threshold
    there = [*range(shared), fitted.num_features]
    means *= 1.0 - share
    means[:, there] += share * mean[own]
    old = np.zeros_like(covariances)  # a convex combination with it stays positive definite
    rows, columns = np.ix_(there, there)
    old[:, rows, columns] = spread[np.ix_(own, own)]
    covariances = (1.0 - share) * covariances + share * old
    return replace(
        fitted,
        means=means[:, :-1],
        covariances=covariances[:, :-1, :-1],
        threshold_means=means[:, -1],
        threshold_variances=covariances[:, -1, -1],
        threshold_covariances=covariances[:, :-1, -1],
        drift_half_life_s=parent.drift_half_life_s,
    )


def _verdict(population: Population, questions: FeedbackTable) -> Verdict:
    report: GroupReport = report_groups(population, questions.evidence(population))
    is_there = report.shares > 0.0
    shares = report.shares[is_there]
    return Verdict(
        accuracy=float(shares @ report.accuracy[is_there]),
        log_loss=float(shares @ report.log_loss[is_there]),
        worst_log_loss=float(report.log_loss[is_there].max()),
        num_people=questions.num_people,
    )


def _artifact(parent: Artifact, population: Population, table: FeedbackTable) -> Artifact:
    response = table.reward_covariance(population)
    effects = parent.instruction_effects
    if effects is not None:  # what instructions do along directions that the parent did not have is not known
        padded = np.zeros((len(effects), population.num_features))
        padded[:, : min(effects.shape[1], population.num_features)] = effects[:, : population.num_features]
        effects = padded
    return replace(
        parent,
        population=population,
        response=response + 1e-9 * np.eye(len(response)),
        adapters=(),  # they were made for, and judged by, the parent's prototypes; `palate adapt` makes new ones
        instruction_effects=effects,
    )
