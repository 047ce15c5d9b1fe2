"""EM over people for a given number of prototypes: `w_u ~ Σ_k π_k N(m_k, S_k)`, full covariances, Laplace E-step.

The E-step of a person needs that person's evidence alone, so a caller can map blocks of people anywhere; the M-step
needs sums over people. Flip rate and scale of rewards are climbed to between steps (empirical Bayes). Robust to people
who belong to no prototype (`router.outliers`). Knows nothing of the basis, of choosing K, or of stores.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from scipy.special import log_softmax, logsumexp

from router.basis import Basis
from router.batches import Modes, fit_modes
from router.feedback import People
from router.laplace import Factor, gaussian
from router.outliers import log_chances, log_trust
from router.types import Array

Found = TypeVar("Found", "Prior", "Believed", Basis)
MapPeople = Callable[[Callable[["Task"], "Believed"], Sequence["Task"]], Iterable["Believed"]]
BLOCK = 250  # people a task
SMALLEST_VARIANCE = 1e-6
TRACE = 1e-3  # of a person
SUSPICION = 2.0  # how much larger the share of odd people is taken to be at first
FLIP_SAMPLE = 150  # people whose evidence decides the flip rate
MAX_FLIP_STEPS = 6  # at a time; EM goes on from there
SCALE_STRETCHES = (1 / 1.3, 1.3)  # of rewards, tried with the flip rate as it is
FLIP_GROWTHS = (0.0, 3.0, 6.0)  # of log rewards per unit of flip rate, tried with one step up the rates or down


class Keep(Protocol):
    """Finds what a step of the fit finds, or recalls it from an earlier run of the same fit."""

    def __call__(self, kind: type[Found], find: Callable[[], Found]) -> Found:
        """Return `find()`, or what it returned at this step before. Steps come in the same order in every run."""


def found_anew(kind: type[Found], find: Callable[[], Found]) -> Found:
    """Keep nothing."""
    return find()


@dataclass(frozen=True)
class Run:
    """Where a fit does its work: `map_people(function, tasks)` runs the E-steps in order, `keep` remembers steps."""

    map_people: MapPeople = map
    keep: Keep = found_anew


HERE = Run()


@dataclass(frozen=True, eq=False)
class Prior:
    """The mixture over people's latent coordinates (tastes, then the thumb threshold)."""

    log_weights: Array  # (K,)
    means: Array  # (K, L)
    covariances: Array  # (K, L, L)
    base: Array  # (L,) what offsets already carry of everyone's reward
    flip_rate: float = 0.0
    has_thumbs: bool = False  # whether any evidence bears on the threshold
    odd_share: float = 0.0  # of people who belong to no prototype

    def stretched(self, factor: float, flip_rate: float) -> "Prior":
        """Return the prior whose scores, base included, are `factor` times as large.

        The threshold is a score like any other where thumbs tell of it; where none do, nothing would ever pull its
        scale back, and it stays.
        """
        factors = np.full(self.base.shape, factor)  # (L,)
        factors[-1] = factor if self.has_thumbs else 1.0
        means = factors * (self.means + self.base) - self.base
        covariances = factors[:, None] * self.covariances * factors
        return replace(self, means=means, covariances=covariances, flip_rate=flip_rate)


@dataclass(frozen=True, eq=False)
class Task:
    """The E-step of a block of people: everything it needs, and nothing about anyone else."""

    people: People  # (B,)
    factor: Factor
    log_weights: Array  # (K,)
    flip_rate: float
    starts: Array  # (B, K, L)
    odd_share: float = 0.0


@dataclass(frozen=True, eq=False)
class Believed:
    """What an E-step says of B people, or of all; doubts are summed, since only their sum matters."""

    joint: Array  # (B, K) log evidence and log weight of each prototype
    means: Array  # (B, K, L)
    doubt: Array  # (K, L, L) sum of people's covariances, each counted by its share of the prototype
    trust: Array | float = 0.0  # (B, K) log probability that they belong to the prototype, not to nobody's taste


def run_em(
    people: People, prior: Prior, iterations: int, flip_rates: Sequence[float], run: Run = HERE
) -> tuple[Prior, Array]:
    """Run EM from `prior`; returns the fitted prior and each person's joint log evidence (U, K) under it."""
    starts: Array = np.broadcast_to(prior.means, (len(people), *prior.means.shape))
    for iteration in range(iterations):
        # Odd people widen the prior in which they are judged: suspicion is larger at first.
        suspicion = prior.odd_share * (1.0 + SUSPICION * (1.0 - (iteration + 1) / iterations))
        judged_in = replace(prior, odd_share=suspicion)
        # Kept as well, for the next searches start from it: from elsewhere they would end some digits away.
        believed = run.keep(Believed, partial(e_step, people, judged_in, starts, run.map_people))
        rates = flip_rates if iteration % 2 == 1 and iteration < iterations - 1 else ()
        prior = run.keep(Prior, partial(_explained, people, prior, believed, rates, run.map_people))
        starts = believed.means
    return prior, e_step(people, prior, starts, run.map_people).joint


def _explained(
    people: People, prior: Prior, believed: Believed, flip_rates: Sequence[float], map_people: MapPeople
) -> Prior:
    """Return the prior that explains what is believed, its flip rate climbed to if there are any to choose from."""
    found = m_step(prior, believed)
    return fit_flip_rate(people, found, believed.means, flip_rates, map_people) if flip_rates else found


def e_step(people: People, prior: Prior, starts: Array, map_people: MapPeople = map) -> Believed:
    """Return what is believed of everybody, from where each search starts: `starts` (K, L) or (U, K, L)."""
    if starts.ndim == 2:
        starts = np.broadcast_to(starts, (len(people), *starts.shape))
    factor = gaussian(prior.means, prior.covariances)
    tasks = [
        Task(people[block], factor, prior.log_weights, prior.flip_rate, starts[block], prior.odd_share)
        for block in (slice(first, first + BLOCK) for first in range(0, len(people), BLOCK))
    ]
    parts = list(map_people(believe, tasks))
    joint, means = np.concatenate([part.joint for part in parts]), np.concatenate([part.means for part in parts])
    trust = np.concatenate([part.trust for part in parts])
    return Believed(joint, means, np.sum([part.doubt for part in parts], axis=0), trust)


def believe(task: Task) -> Believed:
    """Fit a block of people under every prototype: the unit of work to map over people."""
    return weighed(task, fit_modes(task.people, task.flip_rate, task.factor, task.starts))


def weighed(task: Task, modes: Modes) -> Believed:
    """Return what the modes of a block of people come to, each under every prototype."""
    joint = modes.log_evidence + task.log_weights
    covariances = np.asarray(np.linalg.inv(modes.precision), dtype=np.float64)
    trust = np.zeros_like(joint)
    if task.odd_share:
        trust = log_trust(task.odd_share, task.factor, modes, covariances, log_chances(task.people))
        joint = joint - trust  # whoever belongs to no prototype is near one all the same
    doubt = np.einsum("uk,ukij->kij", np.exp(log_softmax(joint, axis=1) + trust), covariances, optimize=True)
    return Believed(joint, modes.means, doubt, trust)


def m_step(prior: Prior, believed: Believed) -> Prior:
    """Return the prior that explains what is believed best, each covariance shrunk to the pooled one."""
    means = believed.means
    _, K, L = means.shape
    shares = np.exp(log_softmax(believed.joint, axis=1) + believed.trust)  # (U, K)
    sizes = shares.sum(axis=0)
    total = max(float(sizes.sum()), TRACE)
    pooled_mean = np.einsum("uk,ukl->l", shares, means) / total
    # A trace of the pooled mean keeps an empty prototype defined. More would add up over the iterations: one whole
    # pseudo-person halved a minority's deviation.
    centers = (np.einsum("uk,ukl->kl", shares, means) + TRACE * pooled_mean) / (sizes + TRACE)[:, None]
    deviations = means - centers
    scatter = believed.doubt + np.einsum("uk,uki,ukj->kij", shares, deviations, deviations, optimize=True)
    pooled = scatter.sum(axis=0) / total
    strength = float(L) if K > 1 else 0.0
    shrunk = (scatter + strength * pooled) / (sizes + strength)[:, None, None]
    shrunk = 0.5 * (shrunk + shrunk.transpose(0, 2, 1)) + SMALLEST_VARIANCE * np.eye(L)
    return replace(prior, log_weights=np.log((sizes + 1.0) / (total + K)), means=centers, covariances=shrunk)


def fit_flip_rate(
    people: People, prior: Prior, starts: Array, rates: Sequence[float], map_people: MapPeople = map
) -> Prior:
    """Climb to the flip rate and the scale of rewards of highest evidence over (a spread sample of) the people.

    Flips and small rewards explain the same labels, so that neither is found without the other; and EM alone finds
    the scale only slowly. A step goes to a neighbouring rate, with rewards to match, or to another scale.
    """
    every = max(1, len(people) // FLIP_SAMPLE)
    sample, origins = people.of(np.arange(0, len(people), every)), starts[::every]

    def total(candidate: Prior) -> float:
        return float(logsumexp(e_step(sample, candidate, origins, map_people).joint, axis=1).sum())

    reached = total(prior)
    for _ in range(MAX_FLIP_STEPS):
        steps = [rate for rate in sorted(rates) if rate > prior.flip_rate][:1]
        steps += [rate for rate in sorted(rates) if rate < prior.flip_rate][-1:]
        growths = [(rate, np.exp(growth * (rate - prior.flip_rate))) for rate in steps for growth in FLIP_GROWTHS]
        candidates = [prior.stretched(stretch, rate) for rate, stretch in growths]
        candidates += [prior.stretched(stretch, prior.flip_rate) for stretch in SCALE_STRETCHES]
        totals = [total(candidate) for candidate in candidates]
        best = int(np.argmax(totals))
        if totals[best] <= reached:
            break
        prior, reached = candidates[best], totals[best]
    return prior


def single_prior(people: People, base_weights: Array, threshold: float) -> Prior:
    """Return the K = 1 prior to start from: scores vary by about one."""
    designs, lengths = people.designs, np.diff(people.row_cuts)
    squares = np.einsum("rl,rl->r", designs[:, :-1], designs[:, :-1], dtype=np.float64)
    sums = np.bincount(np.repeat(np.arange(len(people)), lengths), squares, len(people))
    norms = sums[lengths > 0] / lengths[lengths > 0]
    L, has_thumbs = designs.shape[1], bool(designs[:, -1].any())
    variance = 1.0 / max(float(np.mean(norms)), 1e-12)
    means = np.zeros((1, L))
    means[0, -1] = threshold
    base = np.append(base_weights, 0.0)
    return Prior(np.zeros(1), means, np.diag([variance] * (L - 1) + [1.0])[None], base, has_thumbs=has_thumbs)
