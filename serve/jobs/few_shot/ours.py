"""Palate itself, and nearest neighbours in its latents.

How far to trust a posterior of k events, the people who would have answered alike and the pooled opinion is learned in
rehearsals: all is fitted again without some of the training people and texts, who are then asked, once of texts others
have judged and once of texts nobody has. Knows nothing of test people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit, softmax

from router.basis import BasisConfig
from router.laplace import fit_mode, gaussian
from router.population import FitConfig, fit_population
from router.posterior import choice_probability, condition, prior, thumb_probability
from router.types import Array, Evidence, Posterior
from serve.jobs.few_shot.features import Inputs
from serve.jobs.few_shot.models import Pooled, as_evidence, as_table, differences
from serve.jobs.few_shot.protocol import Rows, Split
from serve.jobs.few_shot.unseen import foretell

CONFIG = FitConfig(
    basis=BasisConfig(rank=12),
    num_prototypes=(1, 2),
    em_iterations=10,
    flip_rates=(0.0,),
    temperings=(1.0, 0.85, 0.7),
)
REHEARSAL = replace(CONFIG, num_prototypes=(1,))  # more do not change how far it can be trusted
NUM_NEIGHBOURS = 25
STEADINESS = 10.0  # how firmly the weights of one number of shots are held to those of the one before
ALIKE = 30.0  # how firmly a person's voices are held to each other on unseen texts, of which none knows more
POOLED = np.array([0.0, 0.0, 0.0, 1.0])
Trust = dict[tuple[str, int, bool], Array]  # kind, shots, whether the texts are seen -> weights (4,) of the opinions


class Tastes:
    """The fitted population, its features of every item, and every training person's latent."""

    def __init__(self, inputs: Inputs, split: Split, config: FitConfig, seed: int) -> None:
        table = as_table(inputs, split.train, split.train_people)
        self.population, self.report = fit_population(table, inputs.layout, config, seed)
        phi = self.population.features(inputs.features)
        num_given = len(inputs.layout.fixed_rows)  # these need the text alone
        learned = foretell(inputs, split.train, phi[:, num_given:])
        self.phi = np.hstack([phi[:, :num_given], learned])  # (n + 1, D)
        weights, means = self.population.mixture_weights, self.population.prior_means
        self.mean = weights @ means
        spread = np.einsum("k,kij->ij", weights, self.population.prior_covariances)
        spread = spread + (weights[:, None] * (means - self.mean)).T @ (means - self.mean)
        self.factor, self.metric = gaussian(self.mean[None], spread[None]), np.linalg.inv(spread)
        self.latents = np.array([self._latent(evidence) for evidence in table.evidence(self.population)])

    def posterior(self, shots: Rows) -> Posterior:
        """Return the posterior after the shots."""
        evidence = self._evidence(shots)
        return condition(self.population, prior(self.population), evidence, len(shots))

    def log_odds(self, kind: str, posterior: Posterior, questions: Rows) -> Array:
        """Return the posterior predictive log-odds of each question's first answer, (M,)."""
        # A question is asked of the item: its sign says which answer was given, not what was asked.
        signs = np.where(questions[:, 2] > 0, -1.0, 1.0)
        gaps = signs[:, None] * differences(self.phi, questions)
        probability = thumb_probability if kind == "thumbs" else choice_probability
        return np.asarray(signs * _log_odds(probability(self.population, posterior, gaps)))

    def lookalikes_log_odds(self, shots: Rows, questions: Rows) -> Array:
        """Return the log-odds (M,) that the training people give each question's first answer."""
        return _log_odds(lookalikes_probability(self.latents, self._evidence(shots), self._evidence(questions)))

    def neighbours(self, shots: Rows) -> Array:
        """Return the latents (NUM_NEIGHBOURS, L) of the training people nearest to the person's own."""
        evidence = self._evidence(shots)
        gaps = self.latents - self._latent(evidence)
        distances = np.einsum("ul,lm,um->u", gaps, self.metric, gaps, optimize=True)
        return np.asarray(self.latents[np.argsort(distances, kind="stable")[:NUM_NEIGHBOURS]])

    def neighbours_probability(self, latents: Array, questions: Rows) -> Array:
        """Return the neighbours' mean probability of each question's first answer, (M,)."""
        asked = self._evidence(questions)
        return np.asarray(expit(asked.designs @ latents.T + asked.offsets[:, None]).mean(axis=1))

    def _evidence(self, rows: Rows) -> Evidence:
        return as_evidence(self.phi, self.phi @ self.population.base_weights, rows)

    def _latent(self, evidence: Evidence) -> Array:
        return np.asarray(fit_mode(evidence, evidence.weights, 0.0, self.factor, self.mean[None]).means[0])


def lookalikes_probability(latents: Array, answered: Evidence, asked: Evidence) -> Array:
    """Return the probability (M,) of what was asked, everyone (U, L) counting as likely as they give the k answers.

    This is Bayes' rule with the people themselves as the prior: a taste is one that somebody has.
    """
    scores = answered.designs @ latents.T + answered.offsets[:, None]  # (k, U)
    likely = softmax(log_expit(scores).sum(axis=0))  # (U,)
    return np.asarray(expit(asked.designs @ latents.T + asked.offsets[:, None]) @ likely)


class Opinions:
    """What can be said of a person's questions: by their posterior, people alike, those nearest, and everyone."""

    def __init__(self, inputs: Inputs, split: Split, config: FitConfig, seed: int) -> None:
        self.is_seen = inputs.is_seen
        self.pooled = Pooled(inputs, split.train, split.train_people)
        self.tastes = Tastes(inputs, split, config, seed)

    def of(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return log-odds (M, 4) of the first answers: by the posterior, people alike, people nearest, everyone."""
        tastes = self.tastes
        ours = tastes.log_odds(kind, tastes.posterior(shots), questions)
        alike = tastes.lookalikes_log_odds(shots, questions)
        nearest = _log_odds(tastes.neighbours_probability(tastes.neighbours(shots), questions))
        return np.column_stack([ours, alike, nearest, self.pooled.scores(questions)])

    def are_seen(self, questions: Rows) -> NDArray[np.bool_]:
        """Mark the questions (M,) all of whose items have been judged by others."""
        return np.asarray(self.is_seen[questions[:, :2]].all(axis=1))


class Palate:
    """The four opinions, joined by weights learned in a rehearsal."""

    def __init__(self, opinions: Opinions, trust: Trust) -> None:
        self.opinions, self.trust = opinions, trust

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Return the calibrated posterior predictive; without shots the pooled opinion itself."""
        if not len(shots):
            return self.opinions.pooled.predict(kind, shots, questions)
        known, unknown = (self.trust[kind, len(shots), seen] for seen in (True, False))
        opinions = self.opinions.of(kind, shots, questions)
        seen = self.opinions.are_seen(questions)
        return np.asarray(expit(np.where(seen, opinions @ known, opinions @ unknown)))


Asked = dict[tuple[str, int, bool], list[Array]]  # kind, shots, seen -> opinions (M, 4) of each rehearsed person


def rehearse(opinions: Opinions, rehearsals: Mapping[int, Split], asked: Asked) -> None:
    """Ask people `opinions` has not met, after k shots each; adds to what was `asked` before."""
    for k, split in rehearsals.items():
        for kind, people in split.test.items():
            known, unknown = (asked.setdefault((kind, k, seen), []) for seen in (True, False))
            for person in people:
                said = opinions.of(kind, person.shots, person.questions)
                for own, part in zip((known, unknown), np.split(said, [len(person.warm)]), strict=True):
                    own.extend([part] if len(part) else [])


def learn_trust(asked: Asked) -> Trust:
    """Learn how far to trust each opinion after k shots.

    One log-linear pool per kind of question, for seen and unseen texts apart, by ridge-penalised likelihood: the
    weights start from the pooled opinion alone at no shots and are held near those of the next smaller k. For unseen
    texts the weights of posterior, people alike and people nearest are held near each other too: all know the text's
    features alone, and the few people rehearsed cannot tell which of them to drop.
    """
    trust: Trust = {}
    for kind, seen in dict.fromkeys((kind, seen) for kind, _, seen in asked):
        numbers = sorted(k for other, k, which in asked if (other, which) == (kind, seen))
        weights = _join([asked[kind, k, seen] for k in numbers], 0.0 if seen else ALIKE)
        trust |= {(kind, k, seen): own for k, own in zip(numbers, weights, strict=True)}
    return trust


def _join(asked: Sequence[Sequence[Array]], alike: float) -> Array:
    """Return the weights (number of shots, 4) that pool log-odds (M, 4) of the given answers, one array a person.

    `alike` is the strength that holds each of the first three weights to the one before it.
    """
    stacked = [np.concatenate([np.zeros((0, len(POOLED))), *people]) for people in asked]

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(-1, len(POOLED))
        steps = weights - np.vstack([POOLED, weights[:-1]])
        slope = STEADINESS * steps
        slope[:-1] -= STEADINESS * steps[1:]
        apart = np.diff(weights[:, :-1], axis=1)
        slope[:, 1:-1] += alike * apart
        slope[:, :-2] -= alike * apart
        value = 0.5 * (STEADINESS * float((steps**2).sum()) + alike * float((apart**2).sum()))
        for row, opinions in enumerate(stacked):
            scores = opinions @ weights[row]
            value += float(np.logaddexp(0.0, -scores).sum())
            slope[row] -= expit(-scores) @ opinions
        return value, slope.ravel()

    start = np.tile(POOLED, len(asked))
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, 3.0)] * len(start)).x
    fitted = fitted.reshape(-1, len(POOLED))
    gains, errors = [], []
    for weights, people in zip(fitted, asked, strict=True):
        own = [np.mean(_losses(opinions @ POOLED) - _losses(opinions @ weights)) for opinions in people]
        gains.append(np.mean(own) if own else 0.0)
        errors.append(np.std(own) / np.sqrt(len(own)) if own else 0.0)
    # Without a gain beyond its standard error there is no taste to speak of: do no harm.
    return fitted if np.mean(gains) > np.mean(errors) else np.tile(POOLED, (len(asked), 1))


def _losses(scores: Array) -> Array:
    return np.logaddexp(0.0, -scores)


class Neighbours:
    """The training people whose latents are nearest to the person's own, asked in their stead."""

    def __init__(self, pooled: Pooled, tastes: Tastes) -> None:
        self.pooled, self.tastes = pooled, tastes

    def predict(self, kind: str, shots: Rows, questions: Rows) -> Array:
        """Average the neighbours' own probabilities."""
        if not len(shots):
            return self.pooled.predict(kind, shots, questions)
        return self.tastes.neighbours_probability(self.tastes.neighbours(shots), questions)


def _log_odds(probabilities: Array) -> Array:
    return np.asarray(logit(np.clip(probabilities, 1e-6, 1.0 - 1e-6)))
