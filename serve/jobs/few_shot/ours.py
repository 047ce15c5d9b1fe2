"""Palate itself, and nearest neighbours in its latents.

The population is fitted on training people less a few, whose shots and questions then calibrate how far to trust a
posterior of k events, its nearest neighbours and the pooled opinion: once for texts people have judged, once for texts
of which only the features are known. Knows nothing of test people.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from router.basis import BasisConfig
from router.laplace import fit_mode, gaussian
from router.population import FitConfig, fit_population
from router.posterior import choice_probability, condition, prior, thumb_probability
from router.types import Array, Evidence, Posterior
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
TRUST_RIDGE = 2.0  # pseudo-weight behind trusting the posterior alone
ALONE = np.array([1.0, 0.0, 0.0])
POOLED = np.array([0.0, 0.0, 1.0])


class Tastes:
    """The fitted population, its features of every item, and every training person's latent."""

    def __init__(self, inputs: Inputs, split: Split, seed: int) -> None:
        fitted = ~np.isin(split.train_people, split.calibration_people)
        _, people = np.unique(split.train_people[fitted], return_inverse=True)
        table = as_table(inputs, split.train[fitted], people)
        self.population, self.report = fit_population(table, inputs.layout, CONFIG, seed)
        self.phi = self.population.features(inputs.features)  # (n + 1, D)
        self.text_phi = self.population.features(inputs.text_only)  # (n + 1, D) as if nobody had judged the item
        weights, means = self.population.mixture_weights, self.population.prior_means
        self.mean = weights @ means
        spread = np.einsum("k,kij->ij", weights, self.population.prior_covariances)
        spread = spread + (weights[:, None] * (means - self.mean)).T @ (means - self.mean)
        self.factor, self.metric = gaussian(self.mean[None], spread[None]), np.linalg.inv(spread)
        self.latents = np.array([self._latent(evidence) for evidence in table.evidence(self.population)])

    def posterior(self, shots: Rows) -> Posterior:
        """Return the posterior after the shots."""
        evidence = as_evidence(self.phi, self.phi @ self.population.base_weights, shots)
        return condition(self.population, prior(self.population), evidence, len(shots))

    def log_odds(self, kind: str, posterior: Posterior, questions: Rows, phi: Array) -> Array:
        """Return the posterior predictive log-odds of each question's first answer, (M,)."""
        # A question is asked of the item: its sign says which answer was given, not what was asked.
        signs = np.where(questions[:, 2] > 0, -1.0, 1.0)
        gaps = signs[:, None] * differences(phi, questions)
        probability = thumb_probability if kind == "thumbs" else choice_probability
        return np.asarray(signs * _log_odds(probability(self.population, posterior, gaps)))

    def neighbours(self, shots: Rows) -> Array:
        """Return the latents (NUM_NEIGHBOURS, L) of the training people nearest to the person's own."""
        evidence = as_evidence(self.phi, self.phi @ self.population.base_weights, shots)
        gaps = self.latents - self._latent(evidence)
        distances = np.einsum("ul,lm,um->u", gaps, self.metric, gaps, optimize=True)
        return np.asarray(self.latents[np.argsort(distances, kind="stable")[:NUM_NEIGHBOURS]])

    def neighbours_probability(self, latents: Array, questions: Rows, phi: Array) -> Array:
        """Return the neighbours' mean probability of each question's first answer, (M,)."""
        asked = as_evidence(phi, phi @ self.population.base_weights, questions)
        return np.asarray(expit(asked.designs @ latents.T + asked.offsets[:, None]).mean(axis=1))

    def _latent(self, evidence: Evidence) -> Array:
        return np.asarray(fit_mode(evidence, evidence.weights, 0.0, self.factor, self.mean[None]).means[0])


class Palate:
    """The posterior's prediction, joined with its neighbours' and the pooled opinion by weights learned beforehand."""

    def __init__(self, inputs: Inputs, pooled: Pooled, tastes: Tastes, split: Split, shots: Sequence[int]) -> None:
        self.pooled, self.tastes, self.is_seen = pooled, tastes, inputs.is_seen
        self.text_rewards = pooled.rewards_of(inputs.text_only)
        self.trust = {
            (kind, k, seen): self._calibrate(kind, k, split, seen=seen)
            for kind in split.calibration
            for k in shots
            for seen in (True, False)
            if k > 0
        }

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the calibrated posterior predictive; without shots the pooled opinion itself."""
        if not len(shots):
            return self.pooled.predict(kind, shots, questions)
        opinions = self._opinions(kind, shots, questions, self.tastes.phi, self.pooled.rewards)
        seen = self.is_seen[questions[:, :2]].all(axis=1)
        known, unknown = (self.trust.get((kind, len(shots), which), ALONE) for which in (True, False))
        return np.asarray(expit(np.where(seen, opinions @ known, opinions @ unknown)))

    def _opinions(self, kind: str, shots: Rows, questions: Rows, phi: Array, rewards: Array) -> Array:
        """Return log-odds (M, 3): the posterior's, the neighbours', everyone's."""
        ours = self.tastes.log_odds(kind, self.tastes.posterior(shots), questions, phi)
        near = self.tastes.neighbours_probability(self.tastes.neighbours(shots), questions, phi)
        return np.column_stack([ours, _log_odds(near), self.pooled.scores_of(rewards, questions)])

    def _calibrate(self, kind: str, k: int, split: Split, *, seen: bool) -> Array:
        """Fit the weights of the three log-odds by ridge-penalised likelihood towards the posterior alone.

        Unseen texts are rehearsed on seen ones with everything but the text's own features taken away.
        """
        people = split.calibration[kind]
        if not people:
            return ALONE
        phi, rewards = (self.tastes.phi, self.pooled.rewards) if seen else (self.tastes.text_phi, self.text_rewards)
        asked = [self._opinions(kind, person.shots[:k], person.warm, phi, rewards) for person in people]
        opinions = np.concatenate(asked)

        def loss(weights: Array) -> tuple[float, Array]:
            scores, gap = opinions @ weights, weights - ALONE
            value = float(np.logaddexp(0.0, -scores).sum()) + TRUST_RIDGE * float(gap @ gap)
            return value, 2.0 * TRUST_RIDGE * gap - expit(-scores) @ opinions

        fitted = np.asarray(minimize(loss, ALONE, jac=True, method="L-BFGS-B", bounds=[(0.0, 2.0)] * 3).x)
        gains = np.array(
            [np.mean(np.logaddexp(0.0, -own @ POOLED) - np.logaddexp(0.0, -own @ fitted)) for own in asked]
        )
        # Without a gain beyond its standard error there is no taste to speak of: do no harm.
        return fitted if gains.mean() > gains.std() / np.sqrt(len(gains)) else POOLED


class Neighbours:
    """The training people whose latents are nearest to the person's own, asked in their stead."""

    def __init__(self, pooled: Pooled, tastes: Tastes) -> None:
        self.pooled, self.tastes = pooled, tastes

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Average the neighbours' own probabilities."""
        if not len(shots):
            return self.pooled.predict(kind, shots, questions)
        return self.tastes.neighbours_probability(self.tastes.neighbours(shots), questions, self.tastes.phi)


def _log_odds(probabilities: Array) -> Array:
    return np.asarray(logit(np.clip(probabilities, 1e-6, 1.0 - 1e-6)))
