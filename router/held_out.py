"""What people left out of the fit say about it: how far to temper evidence, and how the worst-off group fares.

Each held-out person's first half of events is the evidence and the second half the question. Knows nothing of fitting.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from router.likelihood import probabilities, select
from router.posterior import condition, prior
from router.types import Array, Evidence, Population, Posterior


@dataclass(frozen=True, eq=False)
class GroupReport:
    """How held-out people fare, by the prototype they belong to; the worst-off is what MaxMin-RLHF looks at."""

    shares: Array  # (K,) of held-out people
    accuracy: Array  # (K,) of second halves given first halves; nan where the group is empty
    log_loss: Array  # (K,)

    @property
    def worst(self) -> int:
        """The prototype whose people are predicted worst."""
        return int(np.nanargmin(self.accuracy)) if np.isfinite(self.accuracy).any() else 0


@dataclass(frozen=True, eq=False)
class Foretold:
    """What was held likely of events before they were seen."""

    said: Array  # (G,) probability of what was said
    instead: Array  # (G,) of the likeliest thing that could have been said instead

    @property
    def losses(self) -> Array:
        """Log-loss, (G,)."""
        return np.asarray(-np.log(np.maximum(self.said, 1e-12)))

    @property
    def hits(self) -> Array:
        """1 where what was said had been held likeliest, else 0; (G,)."""
        return np.asarray(self.said > self.instead, np.float64)


def choose_tempering(population: Population, people: Sequence[Evidence], candidates: Sequence[float]) -> float:
    """Return the tempering under which first halves predict second halves best."""

    def loss(tempering: float) -> float:
        tempered = replace(population, tempering=tempering)
        return sum(float(halves(tempered, person)[1].losses.mean()) for person in _long_enough(people))

    return min(candidates, key=loss)


def report_groups(population: Population, people: Sequence[Evidence]) -> GroupReport:
    """Return accuracy and log-loss of held-out people by their most probable prototype."""
    K = population.num_prototypes
    members: list[list[tuple[float, float]]] = [[] for _ in range(K)]
    for person in _long_enough(people):
        posterior, foretold = halves(population, person)
        members[int(posterior.responsibilities.argmax())].append((foretold.hits.mean(), foretold.losses.mean()))
    shares = np.array([len(group) for group in members]) / max(1, sum(len(group) for group in members))
    means = np.array([np.mean(group, axis=0) if group else (np.nan, np.nan) for group in members])
    return GroupReport(shares, means[:, 0], means[:, 1])


def _long_enough(people: Sequence[Evidence]) -> list[Evidence]:
    return [person for person in people if person.num_groups >= 4]


def halves(population: Population, person: Evidence) -> tuple[Posterior, Foretold]:
    """Return the posterior after the even events, and what it says of the odd ones at its means (G // 2)."""
    even = np.arange(person.num_groups) % 2 == 0
    posterior = condition(population, prior(population), select(person, even), int(even.sum()))
    return posterior, _foretold(posterior, select(person, ~even))


def unpersonalized(population: Population, person: Evidence) -> Foretold:
    """Return what is said of the odd events (G // 2) by what is believed of everybody."""
    return _foretold(prior(population), select(person, np.arange(person.num_groups) % 2 == 1))


def _foretold(posterior: Posterior, events: Evidence) -> Foretold:
    found = probabilities(events, posterior.latent_means, posterior.flip_rate)  # (K, G, M + 1)
    mixed = np.einsum("k,kgm->gm", posterior.responsibilities, found)
    return Foretold(mixed[:, 0], mixed[:, 1:].max(axis=1, initial=0.0))
