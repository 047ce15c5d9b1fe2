"""Directions of taste beyond the named ones, found in what people preferred.

What the named attributes say of a text is taken out of its features, linearly; the directions in which people differ in
the rest are learned as a reward basis is (`router.basis`), turned so that each explains as much as can be, and tried on
people left out: named directions alone, then with one more each time. The aim is that of What's In My Human Feedback
(Movva et al. 2025): what feedback expresses that nobody asked for. Knows neither stores nor texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from router.basis import BasisConfig, fit_basis
from router.em import single_prior
from router.feedback import FeedbackTable, People
from router.held_out import halves
from router.inputs import Inputs, blocks
from router.population import FeatureLayout, FitConfig, choose_prior, to_population
from router.types import Array, Population
from serve.errors import ConfigurationError
from serve.jobs.fit.fitting import FEWEST_JUDGES, LONG_ENOUGH
from serve.jobs.fit.influence import capped

SURE = 2.0  # standard errors by which a direction must help people left out
TINY = 1e-9


@dataclass(frozen=True)
class DiscoveryConfig:
    """How directions are looked for."""

    num_directions: int = 4
    people_per_direction: int = 25  # fewer people show fewer directions
    min_people: int = 20
    max_features: int = 48  # leading features looked at: in all of them noise outweighs what a few thousand people say
    ridge: float = 4.0
    max_people: int = 2_000  # to learn from; the directions of more are the same
    max_share: float = 0.05  # of all evidence that one person may hold
    held_out_share: float = 0.2  # of people, by their places
    em_iterations: int = 8
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction of taste that has no name; its score has unit variance between answers to one prompt."""

    row: Array  # (P,) over the artifact's standardised features
    gain: float  # nats a held-out judgement, beyond the named ones and the directions before it
    error: float  # standard error of the gain, over people
    share: float  # of the variance of rewards among people
    variance: float  # of people's weights

    @property
    def is_sure(self) -> bool:
        """Whether people left out are surely predicted better with it."""
        return self.gain > SURE * self.error


@dataclass(frozen=True, eq=False)
class Discovery:
    """What feedback says beyond the named attributes."""

    directions: tuple[Direction, ...]
    named: tuple[str, ...]
    named_share: float  # of the variance of rewards among people
    log_loss: float  # nats a held-out judgement, with the named attributes alone
    log_loss_with_all: float
    response: Array  # (D + J, D + J) of the artifact's rewards, then the directions', between answers to one prompt
    num_people: int
    num_held_out: int


def discover(parent: Population, table: FeedbackTable, places: Array, config: DiscoveryConfig) -> Discovery:
    """Look for directions in the feedback of people whose `places` (U,) are not among the lowest; these judge.

    Raises:
        ConfigurationError: too few people.
    """
    learned, judges = _sides(table, places, config)
    named = np.flatnonzero([bool(name) for name in parent.attribute_names])
    gram = half_differences(learned, parent)  # (P, P)
    rows = _directions(parent.basis[named], gram, learned, parent, config)
    populations, losses = list[Population](), list[Array]()
    for number in range(len(rows) + 1):
        known = np.vstack([parent.basis[named], rows[:number]])
        populations.append(_fitted(_people(learned, parent, known), parent, known, config))
        losses.append(_losses(_people(judges, parent, known), populations[-1]))  # (people,)
    gains = [before - after for before, after in pairwise(losses)]
    shares, last = _shares(populations[-1], gram, len(named)), populations[-1]
    everything = np.vstack([parent.basis, rows])
    return Discovery(
        directions=tuple(
            Direction(
                row=row,
                gain=float(gain.mean()),
                error=float(gain.std(ddof=1) / np.sqrt(len(gain))),
                share=float(shares[len(named) + number]),
                variance=float(last.covariances[0, len(named) + number, len(named) + number]),
            )
            for number, (row, gain) in enumerate(zip(rows, gains, strict=True))
        ),
        named=tuple(parent.attribute_names[index] for index in named),
        named_share=float(shares[: len(named)].sum()),
        log_loss=float(losses[0].mean()),
        log_loss_with_all=float(losses[-1].mean()),
        response=everything @ gram @ everything.T,
        num_people=learned.num_people,
        num_held_out=len(losses[0]),
    )


def half_differences(table: FeedbackTable, parent: Population) -> Array:
    """Return the covariance (P, P) of standardised features between answers that were compared: half their moment."""
    P = len(parent.center)
    total = np.zeros((P, P))
    for rows in blocks(len(table.groups)):
        gaps = (table.features[table.plus[rows]] - table.features[table.minus[rows]]) / parent.scale
        total += gaps.T @ gaps
    return total / (2.0 * len(table.groups))


def _sides(table: FeedbackTable, places: Array, config: DiscoveryConfig) -> tuple[FeedbackTable, FeedbackTable]:
    """Return the tables of those who teach and of those who judge."""
    told = np.bincount(table.people, minlength=table.num_people) >= LONG_ENOUGH
    judges = np.flatnonzero(told & (places < config.held_out_share))
    teachers = np.flatnonzero(told & (places >= config.held_out_share))
    if len(teachers) < config.min_people or len(judges) < FEWEST_JUDGES:
        raise ConfigurationError(
            f"{len(teachers)} people to learn from and {len(judges)} held out gave {LONG_ENOUGH} judgements or more; "
            f"at least {config.min_people} and {FEWEST_JUDGES} are needed."
        )
    nearest = np.argsort(places[teachers], kind="stable")[: config.max_people]  # places are as good as drawn at random
    return capped(table.subset(np.sort(teachers[nearest])), config.max_share), table.subset(judges)


def _directions(named: Array, gram: Array, table: FeedbackTable, parent: Population, config: DiscoveryConfig) -> Array:
    """Return the rows (J, P) in which people differ most beyond the named ones, uncorrelated and of unit variance."""
    rank = min(config.num_directions, table.num_people // config.people_per_direction, len(gram) - len(named))
    beyond = np.eye(len(gram)) - gram @ named.T @ np.linalg.pinv(named @ gram @ named.T) @ named  # (P, P)
    standard = Inputs(table.features, parent.center, 1.0 / parent.scale)
    num = min(config.max_features, len(gram))
    rest = replace(table, features=standard @ beyond[:num].T)
    inputs = Inputs(rest.features, np.zeros(num), np.ones(num))
    learned = fit_basis(
        rest, inputs, inputs, BasisConfig(rank, config.ridge, config.ridge), np.random.default_rng(config.seed)
    )
    directions = learned.directions @ beyond[:num]  # over all that the features say: nothing of the named ones
    root = np.linalg.cholesky(gram + TINY * np.trace(gram) / len(gram) * np.eye(len(gram)))
    spread = np.linalg.cholesky(np.cov(learned.weights, rowvar=False).reshape(rank, rank) + TINY * np.eye(rank))
    _, sizes, axes = np.linalg.svd(spread.T @ directions @ root, full_matrices=False)
    rows = np.linalg.solve(root.T, axes[sizes > TINY].T).T
    return np.asarray(rows)


def _people(table: FeedbackTable, parent: Population, rows: Array) -> People:
    """Return everybody's evidence about their weights of `rows` (D, P)."""
    phi = Inputs(table.features, parent.center, 1.0 / parent.scale) @ rows.T
    return table.evidence_of(phi, np.zeros(len(rows)))


def _fitted(people: People, parent: Population, rows: Array, config: DiscoveryConfig) -> Population:
    """Fit the prior over weights of `rows`; what everybody likes along them is its mean."""
    P, none = rows.shape[1], np.zeros(len(rows))
    fitting = FitConfig(BasisConfig(rank=0), (1,), em_iterations=config.em_iterations)
    start = single_prior(people, none, 0.0)
    prior, _, _ = choose_prior(people, start, fitting, np.random.default_rng(config.seed))
    layout = FeatureLayout(parent.center, parent.scale, np.ones(P), np.ones(P), rows)
    return to_population(prior, rows, layout, none)


def _losses(people: People, population: Population) -> Array:
    """Return each person's mean log-loss on their odd judgements, given the even ones."""
    return np.array([float(halves(population, person)[1].losses.mean()) for person in people])


def _shares(population: Population, gram: Array, num_named: int) -> Array:
    """Return how much of the variance of rewards among people each row makes.

    The named rows may be correlated in texts: theirs are the parts of their common variance.
    """
    response = population.basis @ gram @ population.basis.T
    parts = np.einsum("ij,ji->i", population.covariances[0], response)
    parts[:num_named] = np.maximum(parts[:num_named], 0.0)
    return np.asarray(parts / parts.sum())
