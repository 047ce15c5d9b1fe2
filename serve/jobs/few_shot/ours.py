"""Palate itself, and nearest neighbours in its latents.

The population is fitted on training people less a few, whose shots and questions then calibrate how far to trust a
posterior of k events against the pooled opinion. Knows nothing of test people.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from router.basis import BasisConfig
from router.laplace import fit_mode, gaussian
from router.population import FitConfig, FitReport, fit_population
from router.posterior import choice_probability, condition, prior, thumb_probability
from router.types import Array, Population
from serve.jobs.few_shot.features import Inputs
from serve.jobs.few_shot.models import Pooled, as_evidence, as_table, differences
from serve.jobs.few_shot.protocol import Rows, Split

CONFIG = FitConfig(
    basis=BasisConfig(rank=12),
    num_prototypes=(1, 2),
    em_iterations=10,
    flip_rates=(0.0,),
    temperings=(1.0, 0.85, 0.7),
)
NUM_NEIGHBOURS = 25
TRUST_RIDGE = 20.0  # pseudo-weight behind trusting the posterior alone


class Palate:
    """The posterior's prediction, joined with the pooled opinion by weights that calibration people taught."""

    def __init__(self, inputs: Inputs, pooled: Pooled, split: Split, shots: Sequence[int], seed: int) -> None:
        self.pooled = pooled
        fitted = ~np.isin(split.train_people, split.calibration_people)
        _, people = np.unique(split.train_people[fitted], return_inverse=True)
        table = as_table(inputs, split.train[fitted], people)
        self.population: Population
        self.report: FitReport
        self.population, self.report = fit_population(table, inputs.layout, CONFIG, seed)
        self.table = table
        self.phi = self.population.features(inputs.features)  # (n + 1, D)
        self.rewards = self.phi @ self.population.base_weights
        self.trust = {(kind, k): self._calibrate(kind, k, split) for kind in split.calibration for k in shots if k > 0}

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the calibrated posterior predictive; without shots the pooled opinion itself."""
        if not len(shots):
            return self.pooled.predict(kind, shots, questions)
        ours, shared = self.trust.get((kind, len(shots)), (1.0, 0.0))
        return np.asarray(expit(ours * self._log_odds(kind, shots, questions) + shared * self.pooled.scores(questions)))

    def _log_odds(self, kind: str, shots: Rows, questions: Rows) -> Array:
        evidence = as_evidence(self.phi, self.rewards, shots)
        posterior = condition(self.population, prior(self.population), evidence, len(shots))
        # A question is asked of the item: its sign says which answer was given, not what was asked.
        signs = np.where(questions[:, 2] > 0, -1.0, 1.0)
        gaps = signs[:, None] * differences(self.phi, questions)
        probability = thumb_probability if kind == "thumbs" else choice_probability
        return np.asarray(signs * logit(np.clip(probability(self.population, posterior, gaps), 1e-6, 1.0 - 1e-6)))

    def _calibrate(self, kind: str, k: int, split: Split) -> tuple[float, float]:
        """Fit the two weights of log-odds by ridge-penalised likelihood towards (1, 0)."""
        people = split.calibration[kind]
        if not people:
            return 1.0, 0.0
        ours = np.concatenate([self._log_odds(kind, person.shots[:k], person.warm) for person in people])
        shared = np.concatenate([self.pooled.scores(person.warm) for person in people])

        def loss(weights: Array) -> float:
            scores = weights[0] * ours + weights[1] * shared
            penalty = TRUST_RIDGE * float((weights[0] - 1.0) ** 2 + weights[1] ** 2)
            return float(np.logaddexp(0.0, -scores).sum()) + penalty

        weights = minimize(loss, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(0.0, 2.0), (0.0, 2.0)]).x
        return float(weights[0]), float(weights[1])


class Neighbours:
    """The training people whose latents are nearest to the person's own, asked in their stead."""

    def __init__(self, palate: Palate) -> None:
        self.palate = palate
        population = palate.population
        mean = population.mixture_weights @ population.prior_means
        spread = np.einsum("k,kij->ij", population.mixture_weights, population.prior_covariances)
        centered = population.prior_means - mean
        spread = spread + (population.mixture_weights[:, None] * centered).T @ centered
        self.factor, self.start = gaussian(mean[None], spread[None]), mean[None]
        self.metric = np.linalg.inv(spread)
        self.latents = np.array(
            [
                fit_mode(evidence, evidence.weights, 0.0, self.factor, self.start).means[0]
                for evidence in palate.table.evidence(population)
            ]
        )  # (U, L)

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Average the neighbours' own probabilities."""
        if not len(shots):
            return self.palate.pooled.predict(kind, shots, questions)
        phi, rewards = self.palate.phi, self.palate.rewards
        evidence = as_evidence(phi, rewards, shots)
        latent = fit_mode(evidence, evidence.weights, 0.0, self.factor, self.start).means[0]
        gaps = self.latents - latent
        nearest = np.argsort(np.einsum("ul,lm,um->u", gaps, self.metric, gaps, optimize=True))[:NUM_NEIGHBOURS]
        asked = as_evidence(phi, rewards, questions)
        return np.asarray(expit(asked.designs @ self.latents[nearest].T + asked.offsets[:, None]).mean(axis=1))
