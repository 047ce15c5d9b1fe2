"""Laplace fits of many people at once, each under K Gaussian priors: `router.laplace` for blocks of people.

People with about as many observations share each Newton step, the shorter filled up with observations of no weight; who
is done leaves the block. Where somebody chose among several, every observation is filled up to as many rows. The
numbers are those of one fit after another up to rounding. Knows nothing of EM.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from router.feedback import Index, People
from router.laplace import LAST_STEP, MAX_HALVINGS, MAX_STEPS, NO_STEP, Factor, log_determinant, log_sharpness
from router.likelihood import Terms, evaluate_choices, evaluate_rows
from router.types import Array

BUCKETS = 4.0  # for each doubling of the number of observations
MANY = 1_000.0  # more steps than there are doublings of anything
MAX_NUMBERS = 500_000  # in the outer products of a block's rows


class Modes(NamedTuple):
    """Laplace approximations of B people under K priors."""

    means: Array  # (B, K, L)
    precision: Array  # (B, K, L, L)
    log_evidence: Array  # (B, K)


@dataclass(frozen=True, eq=False)
class Block:
    """B people's G observations of M rows each, as the likelihood takes them; R = G·M."""

    designs: Array  # (B, R, L)
    outer: Array  # (B, R, L·L) of each row with itself
    offsets: Array  # (B, 1, R), infinite where a choice has fewer rows
    lows: Array  # (B, 1, G), as what follows
    highs: Array
    weights: Array
    num_outcomes: Array
    is_plain: bool

    @property
    def rows_each(self) -> int:
        """M."""
        return int(self.offsets.shape[2] // self.weights.shape[2])

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

    def terms(self, latents: Array, flip_rate: float) -> Terms:
        """Return the likelihood's terms at latents (B, K, L), derivatives by rows (B, K, R)."""
        scores = latents @ self.designs.transpose(0, 2, 1) + self.offsets  # (B, K, R)
        if self.rows_each == 1:
            return evaluate_rows(scores, self, self.weights, flip_rate, is_plain=self.is_plain)
        by_group = scores.reshape(*scores.shape[:2], -1, self.rows_each)
        found = evaluate_choices(by_group, self, self.weights, flip_rate)
        return Terms(found.values, *(part.reshape(scores.shape) for part in found[1:] if part is not None))

    def information(self, curvature: Array, between: Array | None) -> Array:
        """Return the rows' outer products (B, K, L, L), summed by their curvature (B, K, R), less those of choices."""
        B, K, _ = curvature.shape
        L = self.designs.shape[2]
        information = (curvature @ self.outer).reshape(B, K, L, L)
        if between is not None:
            rows = between.reshape(B, K, -1, self.rows_each).transpose(0, 2, 1, 3)  # (B, G, K, M)
            sums = rows @ self.designs.reshape(B, -1, self.rows_each, L)  # (B, G, K, L)
            information -= sums.transpose(0, 2, 3, 1) @ sums.transpose(0, 2, 1, 3)
        return np.asarray(information)


def fit_modes(people: People, flip_rate: float, prior: Factor, starts: Array) -> Modes:
    """Find every person's modes from `starts` (U, K, L), as `router.laplace.fit_mode` does for one."""
    U, K, L = starts.shape
    found = Modes(np.empty((U, K, L)), np.empty((U, K, L, L)), np.empty((U, K)))
    for members in _alike(people, L):
        part = _fit_block(_block(people, members), flip_rate, prior, starts[members])
        for whole, some in zip(found, part, strict=True):
            whole[members] = some
    return found


def _alike(people: People, L: int) -> Iterator[Index]:
    """Yield people (B,) with about as many observations of as many rows, so few that a block stays small."""
    num_groups = np.diff(people.group_cuts)
    num_rows = np.ones(len(people), np.int64)  # of each person's largest observation
    np.maximum.at(num_rows, people.group_people, np.diff(people.group_starts, append=len(people.groups)))
    steps = np.ceil(BUCKETS * np.log2(np.maximum([num_groups, num_rows], 1)))  # (2, U)
    keys = steps[0] + MANY * steps[1]
    for key in np.unique(keys):
        members = np.flatnonzero(keys == key)
        R = max(1, int(num_groups[members].max())) * int(num_rows[members].max())
        size = max(1, MAX_NUMBERS // (R * L * L))
        yield from (members[first : first + size] for first in range(0, len(members), size))


def _block(people: People, members: Index) -> Block:
    """Gather the members' observations, filled up to as many as the longest has, of as many rows as the largest."""
    num_groups = np.diff(people.group_cuts)[members]
    numbers = np.arange(max(1, int(num_groups.max())))  # (G,)
    groups = np.where(numbers < num_groups[:, None], people.group_cuts[members][:, None] + numbers, -1)  # (B, G)
    starts = people.group_starts
    num_rows = np.append(np.diff(starts, append=len(people.groups)), 0)[groups]
    places = np.arange(max(1, int(num_rows.max())))  # (M,)
    is_row = places < num_rows[:, :, None]  # (B, G, M)
    rows = np.where(is_row, np.append(starts, 0)[groups][:, :, None] + places, -1)

    def filled(column: Array, filler: float) -> Array:
        return np.asarray(np.append(column, filler)[groups][:, None])

    B, G, M = rows.shape
    designs = np.vstack([people.designs, np.zeros_like(people.designs, shape=(1, people.designs.shape[1]))])[rows]
    designs = designs.astype(np.float64).reshape(B, G * M, -1)
    offsets = np.where(is_row, np.append(people.offsets, 0.0)[rows], np.where(places == 0, 0.0, np.inf))
    lows, highs = filled(people.lows, 0.0), filled(people.highs, np.inf)
    return Block(
        designs=designs,
        outer=(designs[:, :, :, None] * designs[:, :, None]).reshape(B, G * M, -1),
        offsets=offsets.reshape(B, 1, G * M),
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
        precision = prior.precision + part.information(terms.curvature, terms.between)
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
            between = None if terms.between is None else terms.between[left]
            terms = terms._replace(gradient=terms.gradient[left], curvature=terms.curvature[left], between=between)
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
    terms = part.terms(latents, flip_rate)
    pulls = np.sum(latents * (prior.shift - 0.5 * _times(prior.precision, latents)), axis=2)
    return terms, prior.constant + pulls + np.sum(part.weights * terms.values, axis=2)


def _modes(block: Block, flip_rate: float, prior: Factor, latents: Array) -> Modes:
    terms, objective = _look(block, flip_rate, prior, latents)
    precision = exact = prior.precision + block.information(terms.curvature, terms.between)
    if flip_rate:
        exact = prior.precision + block.information(terms.exact, terms.exact_between)
    try:
        sharpness = log_determinant(exact)
    except np.linalg.LinAlgError:  # somebody's mode is too flat
        sharpness = np.array([log_sharpness(*person) for person in zip(exact, precision, strict=True)])
    return Modes(latents, precision, objective + 0.5 * (latents.shape[2] * np.log(2 * np.pi) - sharpness))


def _times(precision: Array, latents: Array) -> Array:
    """Multiply matrices (K, L, L) with vectors (B, K, L)."""
    return np.asarray((latents.transpose(1, 0, 2) @ precision).transpose(1, 0, 2))
