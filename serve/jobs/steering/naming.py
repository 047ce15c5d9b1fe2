"""A discovered direction as a named attribute of a new version.

The rewards that the prior expects of people stay what they were, plus what the discovery found that the version did not
know: the unnamed rows give up what they say of the direction, and the direction's weight takes it over. Knows no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.types import Array
from serve.artifacts.artifact import Artifact
from serve.errors import ConfigurationError

SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Found:
    """A direction as `palate steer discover` wrote it down."""

    row: Array  # (P,) over the version's standardised features
    response: Array  # (D + 1, D + 1): of the version's rewards, then the direction's
    variance: float  # of people's weights
    feature_space: str

    @classmethod
    def of(cls, report: dict[str, Any], index: int, sign: float) -> Found:
        """Take one of a report's directions, turned round by `sign` -1. Raises ConfigurationError if it is no such."""
        try:
            one = report["directions"][index]
            response = np.array(report["response"], np.float64)
            size = len(response) - len(report["directions"])
            kept = [*range(size), size + index]
            signs = np.append(np.ones(size), sign)
            return cls(
                row=sign * np.array(one["row"], np.float64),
                response=response[np.ix_(kept, kept)] * np.outer(signs, signs),
                variance=float(one["variance"]),
                feature_space=report["feature_space"],
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ConfigurationError(f"The discovery cannot be read: {error}") from error


def with_name(parent: Artifact, found: Found, name: str) -> Artifact:
    """Return the artifact with the direction as its last named attribute.

    Raises:
        ConfigurationError: the name is taken or empty, or the direction is of another feature space.
    """
    population = parent.population
    names = population.attribute_names or ("",) * population.num_features
    if not name.strip() or name in names:
        raise ConfigurationError(f"'{name}' cannot be the name: there are {', '.join(filter(None, names)) or 'none'}.")
    size = population.num_features
    if found.feature_space != parent.feature_space.id or found.response.shape != (size + 1, size + 1):
        raise ConfigurationError(f"The direction was not found with {parent.version}.")
    place = max((index for index, known in enumerate(names) if known), default=-1) + 1
    given_up = _given_up(found, names, population.base_weights)  # (D,)
    turn = np.eye(size + 1)  # from old rows, and the direction, to new rows
    turn[:size, size] = -given_up
    order = [*range(place), size, *range(place, size)]
    carried = np.vstack([np.eye(size), given_up])[order]  # (D + 1, D) from old weights to new ones
    extra = np.zeros(size + 1)
    extra[place] = 1.0
    spread = np.einsum("k,kij->ij", population.mixture_weights, population.covariances)
    unknown = max(found.variance - given_up @ spread @ given_up, SMALLEST_VARIANCE)
    crossed, effects = population.threshold_covariances, parent.instruction_effects
    covariances = carried @ population.covariances @ carried.T + unknown * np.outer(extra, extra)
    widened = replace(
        population,
        basis=(turn @ np.vstack([population.basis, found.row]))[order],
        means=population.means @ carried.T,
        covariances=0.5 * (covariances + covariances.transpose(0, 2, 1)),
        base_weights=carried @ population.base_weights,
        threshold_covariances=None if crossed is None else crossed @ carried.T,
        attribute_names=tuple([*names, name][index] for index in order),
    )
    return replace(
        parent,
        population=widened,
        response=(turn @ found.response @ turn.T)[np.ix_(order, order)],
        instruction_effects=None if effects is None else np.insert(effects, place, 0.0, axis=1),
    )


def _given_up(found: Found, names: tuple[str, ...], base_weights: Array) -> Array:
    """Return how much of the direction each unnamed row holds, (D,); the shared reward's own row keeps what it says."""
    along = found.response[:-1, -1] / found.response[-1, -1]
    is_unnamed = np.array([not known for known in names])
    is_unnamed[-1] &= base_weights[-1] == 0.0
    return np.where(is_unnamed, along, 0.0)
