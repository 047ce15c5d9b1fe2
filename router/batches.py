"""Laplace fits of many people at once, each under K Gaussian priors: `router.laplace` for blocks of people.

People with about as many observations share each Newton step, the shorter filled up with rows of no weight; who is done
leaves the block. Takes observations of one row (comparisons, thumbs, ratings). The numbers are those of one fit after
another up to rounding. Knows nothing of EM.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from router.feedback import Index, People
from router.laplace import LAST_STEP, MAX_HALVINGS, MAX_STEPS, NO_STEP, Factor, log_determinant, log_sharpness
from router.likelihood import Terms, evaluate_rows
from router.types import Array

BUCKETS = 4.0  # for each doubling of the number of observations
MAX_NUMBERS = 500_000  # in the outer products of a block's rows


class Modes(NamedTuple):
    """Laplace approximations of B people under K priors."""

    means: Array  # (B, K, L)
    precision: Array  # (B, K, L, L)
    log_evidence: Array  # (B, K)


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of B people, (B, 1, R), as the likelihood takes them."""

    designs: Array  # (B, R, L)
    outer: Array  # (B, R, L·L) of each row with itself
    offsets: Array
    lows: Array
    highs: Array
    weights: Array
    num_outcomes: Array
    is_plain: bool

    def of(self, members: Index) -> "Block":
        """Return some of the people."""
        return Block(
            designs=self.designs[members],
            outer=self.outer[members],
            offsets=self.offsets[members],
            lows=self.lows[members],
            highs=self.highs[members],
            weights=self.weights[members],
            num_outcomes=self.num_outcomes[members],
            is_plain=self.is_plain,
        )

    def information(self, curvature: Array) -> Array:
        """Return the rows' outer products (B, K, L, L), summed by their curvature (B, K, R)."""
        L = self.designs.shape[2]
        return np.asarray((curvature @ self.outer).reshape(*curvature.shape[:2], L, L))


def are_single(people: People) -> bool:
    """Whether every observation is one row."""
    return len(people.designs) == len(people.weights)


def fit_modes(people: People, flip_rate: float, prior: Factor, starts: Array) -> Modes:
    """Find every person's modes from `starts` (U, K, L), as `router.laplace.fit_mode` does for one."""
    U, K, L = starts.shape
    found = Modes(np.empty((U, K, L)), np.empty((U, K, L, L)), np.empty((U, K)))
    for members in _alike(np.diff(people.row_cuts), L):
        part = _fit_block(_block(people, members), flip_rate, prior, starts[members])
        for whole, some in zip(found, part, strict=True):
            whole[members] = some
    return found


def _alike(lengths: Index, L: int) -> Iterator[Index]:
    """Yield people (B,) with about as many rows each, so few that their rows' outer products stay small."""
    buckets = np.ceil(BUCKETS * np.log2(np.maximum(lengths, 1)))
    for bucket in np.unique(buckets):
        members = np.flatnonzero(buckets == bucket)
        size = max(1, MAX_NUMBERS // int(max(1, lengths[members].max()) * L * L))
        yield from (members[first : first + size] for first in range(0, len(members), size))


def _block(people: People, members: Index) -> Block:
    """Gather the members' rows, filled up to as many as the longest has."""
    lengths = np.diff(people.row_cuts)[members]
    places = np.arange(max(1, int(lengths.max())))  # (R,)
    is_there = places < lengths[:, None]  # (B, R)
    rows = np.where(is_there, people.row_cuts[members][:, None] + places, 0)

    def filled(column: Array, filler: float) -> Array:
        return np.where(is_there, column[rows], filler)[:, None]

    designs = np.where(is_there[:, :, None], people.designs[rows], 0.0).astype(np.float64)
    B, R, L = designs.shape
    lows, highs = filled(people.lows, 0.0), filled(people.highs, np.inf)
    return Block(
        designs=designs,
        outer=(designs[:, :, :, None] * designs[:, :, None]).reshape(B, R, L * L),
        offsets=filled(people.offsets, 0.0),
        lows=lows,
        highs=highs,
        weights=filled(people.weights, 0.0),
        num_outcomes=filled(people.num_outcomes, 2.0),
        is_plain=not lows.any() and bool(np.isposinf(highs).all()),
    )


def _fit_block(block: Block, flip_rate: float, prior: Factor, starts: Array) -> Modes:
    """Go Newton's steps until everybody has arrived; whoever has takes none, and leaves with half of the others."""
    latents = np.array(starts, dtype=np.float64)
    part, members = block, np.arange(len(latents))  # who is still looked at
    is_going = np.ones(len(latents), dtype=bool)
    terms, objective = _look(part, flip_rate, prior, latents)
    for _ in range(MAX_STEPS):
        gradient = prior.shift - _times(prior.precision, latents[members]) + terms.gradient @ part.designs
        precision = prior.precision + part.information(terms.curvature)
        step = np.asarray(np.linalg.solve(precision, gradient[..., None])[..., 0], dtype=np.float64)
        length = np.sum(step * gradient, axis=2).max(axis=1)  # (B,) of each person's longest step
        is_going &= length >= NO_STEP**2
        step[~is_going] = 0.0
        latents[members], terms, objective = _advance(part, flip_rate, prior, (latents[members], objective), step)
        is_going &= length >= LAST_STEP**2
        if not is_going.any():
            break
        if 2 * is_going.sum() <= len(members):
            left = np.flatnonzero(is_going)
            part, members, is_going, objective = part.of(left), members[left], is_going[left], objective[left]
            terms = terms._replace(gradient=terms.gradient[left], curvature=terms.curvature[left])
    return _modes(block, flip_rate, prior, latents)


def _advance(
    part: Block, flip_rate: float, prior: Factor, state: tuple[Array, Array], step: Array
) -> tuple[Array, Terms, Array]:
    """Take the steps, halved per person and prototype until the objective does not fall."""
    latents, objective = state
    size = np.ones((*objective.shape, 1))
    for _ in range(MAX_HALVINGS):
        moved = latents + size * step
        terms, reached = _look(part, flip_rate, prior, moved)
        worse = reached < objective - 1e-9 * np.abs(objective) - 1e-12
        if not worse.any():
            break
        size = np.where(worse[..., None], 0.5 * size, size)
    return moved, terms, reached


def _look(part: Block, flip_rate: float, prior: Factor, latents: Array) -> tuple[Terms, Array]:
    """Return the likelihood's terms and the log joint (B, K) at latents (B, K, L)."""
    scores = latents @ part.designs.transpose(0, 2, 1) + part.offsets  # (B, K, R)
    terms = evaluate_rows(scores, part, part.weights, flip_rate, is_plain=part.is_plain)
    pulls = np.sum(latents * (prior.shift - 0.5 * _times(prior.precision, latents)), axis=2)
    return terms, prior.constant + pulls + np.sum(part.weights * terms.values, axis=2)


def _modes(block: Block, flip_rate: float, prior: Factor, latents: Array) -> Modes:
    terms, objective = _look(block, flip_rate, prior, latents)
    precision = prior.precision + block.information(terms.curvature)
    exact = precision if terms.exact is terms.curvature else prior.precision + block.information(terms.exact)
    try:
        sharpness = log_determinant(exact)
    except np.linalg.LinAlgError:  # somebody's mode is too flat
        sharpness = np.array([log_sharpness(*person) for person in zip(exact, precision, strict=True)])
    return Modes(latents, precision, objective + 0.5 * (latents.shape[2] * np.log(2 * np.pi) - sharpness))


def _times(precision: Array, latents: Array) -> Array:
    """Multiply matrices (K, L, L) with vectors (B, K, L)."""
    return np.asarray((latents.transpose(1, 0, 2) @ precision).transpose(1, 0, 2))
