"""What is believed about one person, updated by one event at a time.

Keeps the newest observations as rows, so that order does not matter and feedback can be replaced or forgotten; each
refit is a warm-started Laplace fit, and the oldest rows beyond a bound are folded into a Gaussian factor. The evidence
of each prototype gives its responsibility: one softmax of summed log-likelihoods. Knows nothing of storage or clocks.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

from router.gating import gate
from router.laplace import Factor, fit_mode, normalised, site
from router.likelihood import concatenate, empty_evidence, encode, select
from router.types import Array, Event, Evidence, Population, Posterior

MAX_GROUPS = 512  # observations kept as rows
KEPT_GROUPS = 384  # what a fold leaves of them
FLIP_GRID = np.linspace(0.0, 0.45, 10)
FLIP_PRIOR_STRENGTH = 10.0  # pseudo-labels behind the population's flip rate


def prior(population: Population) -> Posterior:
    """Return the belief about a person nobody has heard from."""
    K, D = population.num_prototypes, population.num_features
    return Posterior(
        precision=population.prior_precision,
        shift=population.prior_shift,
        log_evidence=np.zeros(K),
        log_mixture_weights=_log_weights(population),
        evidence=empty_evidence(D + 1),
        folded_precision=np.zeros((K, D + 1, D + 1)),
        folded_shift=np.zeros((K, D + 1)),
        folded_log_evidence=np.zeros(K),
        folded_time_s=0.0,
        num_events=0,
        flip_rate=population.flip_rate,
        population_version=population.version,
    )


def update(population: Population, posterior: Posterior, event: Event) -> Posterior:
    """Return the posterior after one more event. Cost O(K·(R·L² + L³)) with R at most `MAX_GROUPS` observations.

    An event on the same completion (`target`) replaces the earlier one still kept as rows; the later `time_s` wins,
    and of equal times the one that arrives last. An event known by its `event_id` is replaced by itself.
    """
    return update_many(population, posterior, [event])


def update_many(population: Population, posterior: Posterior, events: Sequence[Event]) -> Posterior:
    """Return the posterior after several events, fitted once."""
    _check(population, posterior)
    evidence, num_events = posterior.evidence, posterior.num_events
    arriving: list[Evidence] = []
    seen: dict[str, int] = {}  # event or target -> index in `arriving`
    for event in events:
        rows = encode(population, event)
        keys = [f"event:{event.event_id}", *([f"target:{event.target}"] if event.target else [])]
        rivals = {seen[key] for key in keys if key in seen and arriving[seen[key]].num_groups}
        kept = _is_about(evidence, event)
        times = [*evidence.times_s[kept], *(time for index in rivals for time in arriving[index].times_s)]
        if times and max(times) > event.time_s:
            continue
        num_events += 1 - len({name for name, same in zip(evidence.event_ids, kept, strict=True) if same}) - len(rivals)
        evidence = select(evidence, [not same for same in kept]) if any(kept) else evidence
        for index in rivals:
            arriving[index] = select(arriving[index], [False] * arriving[index].num_groups)
        seen.update(dict.fromkeys(keys, len(arriving)))
        arriving.append(rows)
    return _refit(population, posterior, concatenate([evidence, *arriving]), num_events)


def condition(population: Population, posterior: Posterior, evidence: Evidence, num_events: int) -> Posterior:
    """Return the posterior after rows of evidence made elsewhere, which stand for `num_events` events."""
    _check(population, posterior)
    joined = concatenate([posterior.evidence, evidence])
    return _refit(population, posterior, joined, posterior.num_events + num_events)


def forget(population: Population, posterior: Posterior, event_id: str) -> Posterior:
    """Return the posterior as if the event had never been.

    Raises ValueError when the event is not among the observations still kept; then rebuild from the event log.
    """
    _check(population, posterior)
    kept = [name != event_id for name in posterior.evidence.event_ids]
    if all(kept):
        raise ValueError(f"event {event_id!r} is not kept in this posterior; rebuild the posterior from the event log")
    return _refit(population, posterior, select(posterior.evidence, kept), posterior.num_events - 1)


def with_flip_rate(population: Population, posterior: Posterior) -> Posterior:
    """Estimate this person's flip rate from their own events and refit with it.

    The estimate is the posterior mean over a grid, under a Beta prior around the population's rate (LCPO's idea: a
    person's label noise is one more thing to learn about them). Ten refits.
    """
    _check(population, posterior)
    mean = min(max(2.0 * population.flip_rate, 0.02), 0.98)  # of 2ε, in (0, 1)
    alpha, beta = mean * FLIP_PRIOR_STRENGTH, (1.0 - mean) * FLIP_PRIOR_STRENGTH
    shares = np.clip(2.0 * FLIP_GRID, 0.01, 0.99)
    log_prior = (alpha - 1.0) * np.log(shares) + (beta - 1.0) * np.log1p(-shares)
    noisy = [replace(posterior, flip_rate=rate) for rate in FLIP_GRID]
    fits = [_refit(population, candidate, posterior.evidence, posterior.num_events) for candidate in noisy]
    log_evidence = [np.logaddexp.reduce(fit.log_mixture_weights + fit.log_evidence) for fit in fits]
    rate = float(softmax(log_prior + log_evidence) @ FLIP_GRID)
    return _refit(population, replace(posterior, flip_rate=rate), posterior.evidence, posterior.num_events)


def mixture_weights(population: Population, posterior: Posterior, prompt: Array) -> Array:
    """Return the prototypes' probabilities (K,) for this person and this prompt (Q,) (MiCRo's context routing)."""
    if population.gating_weights is None:
        return posterior.responsibilities
    logits = log_softmax(posterior.log_mixture_weights + gate(population.gating_weights, prompt))
    return np.asarray(softmax(logits + posterior.log_evidence))


def choice_probability(population: Population, posterior: Posterior, differences: Array) -> Array:
    """Return the probability that each first response is preferred, for feature differences (M, D): (M,).

    Integrates over the person's weights (probit approximation, MacKay 1992) and over prototypes; without events it is
    the pooled model's own probability.
    """
    padded = np.column_stack([differences, np.zeros(len(differences))])
    return _predict(population, posterior, padded, differences @ population.base_weights)


def thumb_probability(population: Population, posterior: Posterior, differences: Array) -> Array:
    """Return the probability of a thumb up, for features minus the request's mean (M, D): (M,)."""
    padded = np.column_stack([differences, np.full(len(differences), -1.0)])
    return _predict(population, posterior, padded, differences @ population.base_weights)


def _predict(population: Population, posterior: Posterior, designs: Array, offsets: Array) -> Array:
    if posterior.num_events == 0:
        means = population.prior_means[:, -1] @ population.mixture_weights
        return np.asarray(expit(offsets + designs[:, -1] * means))
    scores = designs @ posterior.latent_means.T + offsets[:, None]  # (M, K)
    variances = np.einsum("ml,kln,mn->mk", designs, posterior.latent_covariances, designs, optimize=True)
    share = 2.0 * posterior.flip_rate
    integrated = expit(scores / np.sqrt(1.0 + np.pi / 8.0 * variances))
    return np.asarray((0.5 * share + (1.0 - share) * integrated) @ posterior.responsibilities)


def _refit(population: Population, posterior: Posterior, evidence: Evidence, num_events: int) -> Posterior:
    now = max([posterior.folded_time_s, *evidence.times_s]) if evidence.num_groups else posterior.folded_time_s
    fade = float(_decay(population, now - posterior.folded_time_s)) if posterior.folded_precision.any() else 1.0
    folded = Factor(
        fade * posterior.folded_precision, fade * posterior.folded_shift, fade * posterior.folded_log_evidence
    )
    weights = population.tempering * evidence.weights * _decay(population, now - evidence.times_s)
    base = _population_factor(population)
    mode = fit_mode(evidence, weights, posterior.flip_rate, base + folded, posterior.latent_means)
    if evidence.num_groups > MAX_GROUPS:
        old = _oldest(evidence, evidence.num_groups - KEPT_GROUPS)
        folded += site(select(evidence, old), weights[old], posterior.flip_rate, mode.means)
        evidence = select(evidence, ~old)
    return replace(
        posterior,
        precision=mode.precision,
        shift=(mode.precision @ mode.means[:, :, None])[:, :, 0],
        log_evidence=mode.log_evidence,
        evidence=evidence,
        folded_precision=folded.precision,
        folded_shift=folded.shift,
        folded_log_evidence=folded.constant,
        num_events=num_events,
        folded_time_s=now if folded.precision.any() else 0.0,
    )


def _population_factor(population: Population) -> Factor:
    """Return the population's prior as a factor."""
    return normalised(
        population.prior_precision, population.prior_shift, population.prior_means, population.prior_log_determinants
    )


def _log_weights(population: Population) -> Array:
    return np.asarray(np.log(np.maximum(population.mixture_weights, 1e-300)))


def _check(population: Population, posterior: Posterior) -> None:
    if posterior.population_version != population.version:
        raise ValueError(
            f"posterior belongs to population {posterior.population_version!r}, not {population.version!r}; "
            "rebuild it from the event log"
        )


def _is_about(evidence: Evidence, event: Event) -> list[bool]:
    return [
        name == event.event_id or bool(event.target and target == event.target)
        for name, target in zip(evidence.event_ids, evidence.targets, strict=True)
    ]


def _decay(population: Population, age_s: Array | float) -> Array:
    if population.drift_half_life_s is None:
        return np.ones_like(age_s, dtype=np.float64)
    return np.asarray(np.exp2(-np.asarray(age_s) / population.drift_half_life_s))


def _oldest(evidence: Evidence, count: int) -> NDArray[np.bool_]:
    """Mark whole events, oldest first, until at least `count` groups are marked."""
    order = np.argsort(evidence.times_s, kind="stable")
    names = {evidence.event_ids[index] for index in order[:count]}
    return np.array([name in names for name in evidence.event_ids])
