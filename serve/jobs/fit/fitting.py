"""A population fitted from everyone's feedback on top of the artifact in service.

The parent's directions stay, so that what people were told about their tastes keeps its meaning; further ones and the
shared reward are learned. The prior is drawn to the parent's as by `parent_people` more people. A prototype stands for
at least `min_people`. People left out say whether the candidate predicts better. Knows neither stores nor files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.basis import BasisConfig
from router.feedback import FeedbackTable
from router.held_out import GroupReport, report_groups
from router.population import FeatureLayout, FitConfig, MapPeople, fit_population
from router.types import Array, Population
from serve.artifacts.artifact import Artifact
from serve.errors import ConfigurationError

PROTOTYPES = (1, 2, 4, 8)
LONG_ENOUGH = 4  # events of a person who can say something about the fit


@dataclass(frozen=True)
class RefitConfig:
    """How a population is fitted from feedback."""

    rank: int = 4  # directions learned beyond the parent's
    people_per_direction: int = 50  # fewer people teach fewer directions
    min_people: int = 20  # of a prototype, and in all
    parent_people: float = 50.0  # how many people the parent's prior counts for
    held_out_share: float = 0.2
    em_iterations: int = 10
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


def refit(
    parent: Artifact, table: FeedbackTable, config: RefitConfig, map_people: MapPeople = map
) -> tuple[Artifact, Verdict, Verdict]:
    """Fit an artifact; return it with the verdicts on it and on the parent, over the same held-out people.

    The candidate that is judged is fitted without them; the one returned, with everybody.

    Raises:
        ConfigurationError: too few people.
    """
    counts = np.bincount(table.people, minlength=table.num_people)
    told = np.flatnonzero(counts >= LONG_ENOUGH)
    num_held_out = round(config.held_out_share * len(told))
    if len(told) - num_held_out < config.min_people or num_held_out < 2:
        raise ConfigurationError(
            f"{len(told)} people gave {LONG_ENOUGH} judgements or more; at least "
            f"{int(np.ceil(config.min_people / (1.0 - config.held_out_share)))} are needed."
        )
    held_out = np.sort(np.random.default_rng(config.seed).permutation(told)[:num_held_out])
    others = np.setdiff1d(np.arange(table.num_people), held_out)
    judged = _fit(parent, table.subset(others), config, map_people)
    questions = table.subset(held_out)
    candidate = _verdict(judged, questions), _verdict(parent.population, questions)
    population = _fit(parent, table, config, map_people)
    return _artifact(parent, population, table), *candidate


def influence(table: FeedbackTable) -> float:
    """Return the largest share of all evidence that one person holds, by weight."""
    weights = np.bincount(table.people, table.weights, minlength=table.num_people)
    return float(weights.max() / weights.sum())


def _fit(parent: Artifact, table: FeedbackTable, config: RefitConfig, map_people: MapPeople) -> Population:
    population = parent.population
    P = len(population.center)
    rank = min(config.rank, table.num_people // config.people_per_direction)
    sizes = [K for K in PROTOTYPES if K == 1 or table.num_people >= 2 * K * config.min_people]
    own = FeatureLayout(
        center=population.center,
        scale=population.scale,
        base_scales=np.ones(P),
        taste_scales=np.ones(P),
        fixed_rows=_own_rows(parent),
        names=population.attribute_names[: len(_own_rows(parent))] or ("",) * len(_own_rows(parent)),
    )
    fitting = FitConfig(BasisConfig(rank=rank), tuple(sizes), em_iterations=config.em_iterations)
    fitted, _ = fit_population(table, own, fitting, config.seed, map_people)
    smallest = float(fitted.mixture_weights.min()) * table.num_people
    if fitted.num_prototypes > 1 and smallest < config.min_people:
        fitted, _ = fit_population(table, own, replace(fitting, num_prototypes=(1,)), config.seed, map_people)
    return drawn_to(fitted, population, table.num_people, config.parent_people)


def _own_rows(parent: Artifact) -> Array:
    """The parent's directions of taste; its shared reward is learned anew."""
    population = parent.population
    is_shared = population.base_weights != 0.0  # a row that only the shared reward uses is the fit's last one
    is_shared[:-1] = False
    return np.asarray(population.basis[~is_shared])


def drawn_to(fitted: Population, parent: Population, num_people: int, parent_people: float) -> Population:
    """Return the fitted prior, averaged in the parent's directions with the parent's as by so many more people."""
    D = min(len(parent.basis), len(fitted.basis))
    shared = int(np.sum(np.all(np.isclose(fitted.basis[:D], parent.basis[:D]), axis=1)))
    share = parent_people / (parent_people + num_people)
    mean = parent.mixture_weights @ parent.means
    centered = parent.means - mean
    spread = np.einsum("k,kij->ij", parent.mixture_weights, parent.covariances)
    spread = spread + (parent.mixture_weights[:, None] * centered).T @ centered
    means, covariances = np.array(fitted.means), np.array(fitted.covariances)
    means[:, :shared] = (1.0 - share) * means[:, :shared] + share * mean[:shared]
    # A convex combination of positive definite matrices; the rest of the parent's is nothing, so it only scales.
    old = np.array(covariances)
    old[:, :shared, :] = 0.0
    old[:, :, :shared] = 0.0
    old[:, :shared, :shared] = spread[:shared, :shared]
    covariances = (1.0 - share) * covariances + share * old
    crossed = None if fitted.threshold_covariances is None else (1.0 - share) * fitted.threshold_covariances
    return replace(fitted, means=means, covariances=covariances, threshold_covariances=crossed)


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
    response = np.asarray(np.cov(population.features(table.features), rowvar=False), np.float64)
    effects = parent.instruction_effects
    if effects is not None:  # what instructions do along directions that the parent did not have is not known
        padded = np.zeros((len(effects), population.num_features))
        padded[:, : min(effects.shape[1], population.num_features)] = effects[:, : population.num_features]
        effects = padded
    return replace(
        parent,
        population=population,
        response=response + 1e-9 * np.eye(len(response)),
        adapters=parent.adapters if len(parent.adapters) == population.num_prototypes else (),
        instruction_effects=effects,
    )
