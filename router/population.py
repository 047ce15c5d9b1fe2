"""What everyone's feedback teaches: reward basis, prototypes, flip rate, tempering, gating.

The basis first, then a mixture over people in it by EM (`router.em`; prototypes as in PAL, MaxMin-RLHF and MiCRo), in
turns where people are left out who belong to no prototype. K is chosen by held-out evidence on some of the people where
there are many; EM then goes over everybody. Knows nothing of stores or texts.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.special import logsumexp

from router.basis import Basis, BasisConfig, fit_basis
from router.em import HERE, Believed, Prior, Run, e_step, m_step, run_em, single_prior
from router.feedback import FeedbackTable, Index, People
from router.gating import fit_gating
from router.held_out import GroupReport, choose_tempering, report_groups
from router.inputs import Features, Inputs
from router.outliers import FEWEST_ODD, odd_ones, trust_of_many
from router.types import Array, Population

LAST_ITERATIONS = 3  # of EM on everybody, those held out before included
ENOUGH_HELD_OUT = 150  # people to tell one number of prototypes from another; of few people a third is held out
MAX_SIFTINGS = 2  # of people who are no evidence about the others
NOISY_STRETCH = 2.2  # the noisiest start has rewards this much larger: flips left unmodelled shrink them


@dataclass(frozen=True)
class FitConfig:
    """How a population is fitted."""

    basis: BasisConfig = field(default_factory=BasisConfig)
    num_prototypes: tuple[int, ...] = (1, 2, 4)  # candidates, ascending; the held-out evidence chooses
    num_restarts: int = 1
    em_iterations: int = 12
    flip_rates: tuple[float, ...] = (0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25)
    temperings: tuple[float, ...] = (1.0, 0.8, 0.6)
    held_out_share: float = 0.15
    odd_share: float = 0.0  # of people who may be no evidence about the others (`router.outliers`); 0: all are
    max_choosing: int = 10_000  # people on whom K is chosen and EM begun; everybody is in its last steps

    def __post_init__(self) -> None:
        if (
            not self.num_prototypes
            or min(self.num_prototypes) < 1
            or list(self.num_prototypes) != sorted(set(self.num_prototypes))
        ):
            raise ValueError("num_prototypes must list candidates from 1 up, ascending")
        if self.em_iterations < 1 or self.num_restarts < 1:
            raise ValueError("em_iterations and num_restarts must be at least 1")
        if self.max_choosing < 2:
            raise ValueError("max_choosing must be at least 2")
        if not 0.0 < self.held_out_share < 1.0:
            raise ValueError("held_out_share must be between 0 and 1")
        if not 0.0 <= self.odd_share <= 0.3:
            raise ValueError("odd_share must be between 0 and .3")


@dataclass(frozen=True, eq=False)
class FeatureLayout:
    """How raw features enter: centring, scales of the penalised inputs, and rows of the basis that are given."""

    center: Array  # (P,)
    scale: Array  # (P,)
    base_scales: Array  # (P,) larger: the shared reward uses this feature more freely
    taste_scales: Array  # (P,)
    fixed_rows: Array  # (F, P) over standardised features: principal components, probes of named attributes
    names: tuple[str, ...] = ()  # (F,)


@dataclass(frozen=True, eq=False)
class FitReport:
    """What the fit found out about itself."""

    held_out_log_evidence: dict[int, float]  # number of prototypes -> mean per held-out person
    log_evidence: float  # mean per person of the final fit
    groups: GroupReport
    num_left_out: int = 0  # people who were no evidence about the others


@dataclass(frozen=True, eq=False)
class _Begun:
    """A fit whose basis is there."""

    people: People
    prompts: Array | None
    rows: Array  # (D, P)
    start: Prior
    rng: np.random.Generator
    basis: Basis
    order: Index | None = None  # (U,) who is asked first to choose the number of prototypes; None: drawn


def plain_layout(features: Features, fixed_rows: Array | None = None, names: tuple[str, ...] = ()) -> FeatureLayout:
    """Return the layout that standardises every feature and penalises all alike, scaled to unit mean square norm."""
    P = features.shape[1]
    deviations = features.std(axis=0, dtype=np.float64)
    scale = np.where(deviations > 1e-12, deviations, 1.0) * np.sqrt(P)
    rows = np.zeros((0, P)) if fixed_rows is None else fixed_rows
    center = np.asarray(features.mean(axis=0, dtype=np.float64))
    return FeatureLayout(center, scale, np.full(P, 1.0), np.full(P, 1.0), rows, names)


def fit_population(
    table: FeedbackTable,
    layout: FeatureLayout,
    config: FitConfig,
    seed: int,
    run: Run = HERE,
) -> tuple[Population, FitReport]:
    """Learn the basis, then the prior in it. Cost linear in feedback; deterministic under `seed`.

    Where some people are no evidence about the others (`router.outliers`), all is learned without them. Of more than
    `max_choosing` people so many teach the basis in which all are sifted; everybody's starts from it.
    """
    kept, rest = np.arange(table.num_people), table
    order = _drawn(table, config, seed).permutation(table.num_people)
    are_many = table.num_people > config.max_choosing
    begun = _sketch(table, order, layout, config, seed, run) if are_many else _begin(table, layout, config, seed, run)
    for _ in range(MAX_SIFTINGS if config.odd_share else 0):
        already = table.num_people - len(kept)
        fewest, most = FEWEST_ODD * table.num_people - already, config.odd_share * table.num_people - already
        is_odd = odd_ones(_trust(begun, config, run), fewest, most)
        if not is_odd.any():
            break
        kept = kept[~is_odd]
        # Who chooses the number of prototypes stays the same, so that leaving some out does not draw lots anew.
        left = np.searchsorted(kept, order[np.isin(order, kept)])
        rest = table.subset(kept)
        again = _sketch(rest, left, layout, config, seed, run) if are_many else _begin(rest, layout, config, seed, run)
        begun = replace(again, order=left)
    if are_many:
        begun = replace(_begin(rest, layout, config, seed, run, begun.basis), order=begun.order)
    population, report = _finish(begun, layout, config, run)
    return population, replace(report, num_left_out=table.num_people - len(kept))


def _begin(
    table: FeedbackTable, layout: FeatureLayout, config: FitConfig, seed: int, run: Run, start: Basis | None = None
) -> _Begun:
    """Learn the basis from everybody in the table, from that of some of them where it is there."""
    learned = run.keep(Basis, partial(_learned, table, layout, config, seed, start))
    return _seen(table, layout, learned, _drawn(table, config, seed))


def _sketch(
    table: FeedbackTable, order: Index, layout: FeatureLayout, config: FitConfig, seed: int, run: Run
) -> _Begun:
    """See everybody in the basis that the first in `order` (U,) teach."""
    some = table.subset(np.sort(order[: config.max_choosing])).compact()
    learned = run.keep(Basis, partial(_learned, some, layout, config, seed))
    return replace(_seen(table, layout, learned, _drawn(table, config, seed)), order=order)


def _learned(
    table: FeedbackTable, layout: FeatureLayout, config: FitConfig, seed: int, start: Basis | None = None
) -> Basis:
    base = Inputs(table.features, layout.center, layout.base_scales / layout.scale)
    taste = Inputs(table.features, layout.center, layout.taste_scales / layout.scale)
    return fit_basis(table, base, taste, config.basis, np.random.default_rng(seed), start)


def _drawn(table: FeedbackTable, config: FitConfig, seed: int) -> np.random.Generator:
    """Return the generator behind what the basis draws, found or recalled."""
    rng = np.random.default_rng(seed)
    rng.normal(size=config.basis.rank * (table.features.shape[1] + table.num_people))
    return rng


def _seen(table: FeedbackTable, layout: FeatureLayout, learned: Basis, rng: np.random.Generator) -> _Begun:
    """See everybody in the table in a basis."""
    features = table.features
    base = learned.base * layout.base_scales
    rows = np.vstack([layout.fixed_rows, learned.directions * layout.taste_scales, base])  # (D, P)
    base_weights = np.zeros(len(rows))
    base_weights[-1] = 1.0
    people = table.evidence_of(Inputs(features, layout.center, 1.0 / layout.scale) @ rows.T, base_weights)
    return _Begun(people, table.prompts, rows, single_prior(people, base_weights, learned.threshold), rng, learned)


def _trust(begun: _Begun, config: FitConfig, run: Run) -> Array:
    """Return how far each person's taste is one that many have, (U,).

    Judged with the most prototypes there are: a minority that gains too little by one of its own is not odd.
    """
    finest = replace(config, num_prototypes=config.num_prototypes[-1:])
    start = replace(begun.start, odd_share=config.odd_share)
    prior, _, _ = choose_prior(begun.people, start, finest, deepcopy(begun.rng), run, begun.order)
    believed = e_step(begun.people, prior, prior.means, run.map_people)
    return trust_of_many(believed.joint, np.asarray(believed.trust))


def _finish(begun: _Begun, layout: FeatureLayout, config: FitConfig, run: Run) -> tuple[Population, FitReport]:
    """Learn the prior in the basis."""
    people, rows = begun.people, begun.rows
    base_weights = begun.start.base[:-1]
    prior, held_out, by_size = choose_prior(people, begun.start, config, begun.rng, run, begun.order)
    population = to_population(prior, rows, layout, base_weights)
    population = replace(population, tempering=choose_tempering(population, held_out, config.temperings))
    groups = report_groups(population, held_out)
    prior, log_evidence = run_em(people, prior, LAST_ITERATIONS, config.flip_rates, run)
    population = replace(to_population(prior, rows, layout, base_weights), tempering=population.tempering)
    if begun.prompts is not None:
        gating = fit_gating(begun.prompts, log_evidence - prior.log_weights, prior.log_weights)
        population = replace(population, gating_weights=gating)
    mean = float(logsumexp(log_evidence, axis=1).mean())
    return population, FitReport(by_size, mean, groups)


def choose_prior(
    people: People,
    start: Prior,
    config: FitConfig,
    rng: np.random.Generator,
    run: Run = HERE,
    order: Index | None = None,
) -> tuple[Prior, People, dict[int, float]]:
    """Fit a prior for each K on most people; keep the one that explains the others best.

    More prototypes must gain more than two standard errors of the paired difference. Of more than `max_choosing` people
    so many, drawn at random or first in `order` (U,), decide. Returns the prior, the held-out people, and the mean
    held-out log evidence by K.
    """
    order = (rng.permutation(len(people)) if order is None else order)[: config.max_choosing]
    fewest = min(ENOUGH_HELD_OUT, len(order) / 3) if len(config.num_prototypes) > 1 else 1
    num_held_out = round(max(config.held_out_share * len(order), fewest))
    held_out = people.of(np.sort(order[:num_held_out]))
    seen = people.of(np.sort(order[num_held_out:])) if len(order) > num_held_out else held_out
    starts = [start, start.stretched(NOISY_STRETCH, config.flip_rates[-1])] if len(config.flip_rates) > 1 else [start]
    single = _fit_mixture(seen, starts, config, run)
    best, best_evidence, by_size = single, np.full(num_held_out, -np.inf), {}
    believed = e_step(seen, single, single.means, run.map_people)
    for K in config.num_prototypes:
        starts = _mixture_starts(seen, believed.means, single, K, config, rng) if K > 1 else []
        prior = _fit_mixture(seen, starts, config, run) if starts else single
        evidence = logsumexp(e_step(held_out, prior, prior.means, run.map_people).joint, axis=1)
        by_size[K] = float(evidence.mean())
        gain = evidence - best_evidence  # infinite for the first
        if len(by_size) == 1 or gain.mean() > 2.0 * gain.std() / np.sqrt(len(gain)):
            best, best_evidence = prior, evidence
    return best, held_out, by_size


def to_population(prior: Prior, rows: Array, layout: FeatureLayout, base_weights: Array) -> Population:
    """Assemble the population from a fitted prior and the basis' rows (D, P)."""
    D, F = rows.shape[0], layout.fixed_rows.shape[0]
    weights = np.exp(prior.log_weights)
    names = layout.names or ("",) * F
    return Population(
        basis=rows,
        center=layout.center,
        scale=layout.scale,
        mixture_weights=weights / weights.sum(),
        means=prior.means[:, :-1],
        covariances=prior.covariances[:, :-1, :-1],
        base_weights=base_weights,
        flip_rate=prior.flip_rate,
        threshold_means=prior.means[:, -1],
        threshold_variances=prior.covariances[:, -1, -1],
        threshold_covariances=prior.covariances[:, :-1, -1],
        attribute_names=(*names, *[""] * (D - F)),
    )


def _fit_mixture(people: People, starts: Sequence[Prior], config: FitConfig, run: Run) -> Prior:
    """Fit a mixture from each start; the best evidence wins."""
    best, best_total = starts[0], -np.inf
    for start in starts:
        prior, evidence = run_em(people, start, config.em_iterations, config.flip_rates, run)
        total = float(logsumexp(evidence, axis=1).sum())
        if total > best_total:
            best, best_total = prior, total
    return best


def _mixture_starts(
    people: People, means: Array, single: Prior, K: int, config: FitConfig, rng: np.random.Generator
) -> list[Prior]:
    """Return starts of K prototypes: clusters of the people's posterior `means` (U, 1, L) under one prototype."""
    whitened = means[:, 0] @ np.linalg.cholesky(np.linalg.inv(single.covariances[0]))  # (U, L)
    starts = []
    for _ in range(config.num_restarts):
        labels = _spread(whitened, K, rng)
        joint = np.where(labels[:, None] == np.arange(K), 0.0, -30.0)
        doubt = np.vstack([_doubt(people, means, single, np.flatnonzero(labels == k)) for k in range(K)])
        starts.append(m_step(single, Believed(joint, np.repeat(means, K, axis=1), doubt)))
    # Flips and small rewards explain the same labels, and EM does not cross from one to the other: try both sides.
    if len(config.flip_rates) > 1:
        starts += [start.stretched(NOISY_STRETCH, config.flip_rates[-1]) for start in starts[:1]]
    return starts


def _doubt(people: People, means: Array, single: Prior, members: Index) -> Array:
    """Return the sum (1, L, L) of the members' covariances."""
    if not len(members):
        return np.zeros_like(single.covariances)
    return e_step(people.of(members), replace(single, odd_share=0.0), means[members]).doubt


def _spread(points: Array, K: int, rng: np.random.Generator) -> Index:
    """Cluster points (U, L) by k-means from distant seeds (k-means++); returns labels (U,)."""
    centers = points[rng.integers(len(points))][None]
    for _ in range(K - 1):
        distances = ((points[:, None] - centers) ** 2).sum(axis=2).min(axis=1)
        chance = distances / distances.sum() if distances.sum() > 0 else None
        centers = np.vstack([centers, points[rng.choice(len(points), p=chance)]])
    for _ in range(20):
        labels = ((points[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
        centers = np.array([points[labels == k].mean(axis=0) if (labels == k).any() else centers[k] for k in range(K)])
    return np.asarray(labels, dtype=np.int64)
