"""The glue between what is stored about a person and the preference model: events to rows, arrays to beliefs.

Stored evidence is float32 features of one feature space (P,), never reward features, so that a new artifact can fold
the same log. Numbers only: ids travel as bytes, infinities as the largest floats. Knows no store, no HTTP, no clock.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.posterior import MAX_GROUPS, prior, update_many
from router.types import Array, Choice, Comparison, Event, Evidence, Population, Posterior, Ranking, Rating, Thumb
from serve.artifacts.artifact import Artifact
from serve.remarks import attributes_named
from user_store.folding import PosteriorModel
from user_store.types import CompletionRecord, FeedbackEvent, FeedbackKind, StoredPosterior, UserState
from user_store.validation import Arrays

Rows = NDArray[np.float32]

IMPLICIT_WEIGHT = 0.2  # of an observation whose weight is 1 when the person said it
REMARK_WEIGHT = 0.3  # of one attribute named in a comment or reason
NUM_STARS = 5  # a rating's value is 1 to NUM_STARS
LARGEST = float(np.finfo(np.float64).max)  # stands for infinity in what is stored
EVIDENCE = ("designs", "offsets", "groups", "lows", "highs", "weights", "num_outcomes", "times_s")
# Evidence that holds features, and its number of axes.
ROWS = {"judged": 1, "reference": 1, "chosen": 1, "rejected": 2, "ranked": 2}
# Left out of what is stored while zero: most people have nothing condensed.
FOLDED = ("folded_precision", "folded_shift", "folded_log_evidence")


@dataclass(frozen=True)
class Preferences:
    """One artifact's reading of stored feedback."""

    artifact: Artifact

    @cached_property
    def model(self) -> PosteriorModel:
        """The seam that the store folds logs with."""
        return PosteriorModel(self.artifact.version, lambda: encode_posterior(self._prior), self._fold, self.evidence)

    def posterior(self, state: UserState) -> Posterior | None:
        """Return what is believed about a person; None without counting events under this artifact."""
        stored = state.posterior
        if stored is None or stored.population != self.artifact.version or not int(stored.arrays["num_events"]):
            return None
        return decode_posterior(stored.arrays, self._prior)

    def latent(self, stored: StoredPosterior) -> Rows | None:
        """Return the mean taste (D,) for the latent index; None where `posterior` would be None."""
        if stored.population != self.artifact.version or "mean" not in stored.arrays:
            return None
        return stored.arrays["mean"].astype(np.float32)

    def evidence(
        self, event: FeedbackEvent, records: Sequence[CompletionRecord], measured: Rows | None = None
    ) -> Arrays | None:
        """Gather the features that an event is about, (P,) or (n, P) each; None if it can never count.

        `records` are its completions, in order; `measured` (n, P) its inline texts, in this artifact's feature space
        (for a pending event they wait in its payload: `measured_payload`).
        """
        if event.payload.get("is_paused"):
            return None
        if event.kind is FeedbackKind.COMMENT:
            return {"remark": np.ones(1, np.float32)}
        spaces = {str(record.payload.get("feature_space", self._space)) for record in records}
        if measured is None and "measured" in event.payload:
            measured = _unpack(event.payload["measured"])
            spaces.add(str(event.payload["measured_space"]))
        elif measured is not None or not records:
            spaces.add(self._space)
        if len(spaces) != 1:
            return None
        rows = _rows_of(event, [choices_of(record) for record in records], records, measured)
        return None if rows is None else {**rows, "space": _space_code(spaces.pop())}

    def measured_payload(self, measured: Rows) -> dict[str, str]:
        """Return what a pending event carries of its inline texts (n, P)."""
        packed = base64.b64encode(np.ascontiguousarray(measured, "<f4").tobytes()).decode()
        return {"measured": f"{len(measured)}:{packed}", "measured_space": self._space}

    def events(self, event: FeedbackEvent) -> list[Event]:
        """Turn a stored event into the preference model's events; none if it says nothing under this artifact."""
        is_readable = event.evidence is not None and self._is_readable(event, event.evidence)
        said = self._rated(event, event.evidence) if event.evidence is not None and is_readable else []
        return [*said, *self._remarks(event)]

    def _fold(self, arrays: Arrays, events: Sequence[FeedbackEvent]) -> Arrays:
        """Add events. However the log was cut into calls, the result is the same, to the last bit.

        For that, old observations are condensed at the same events, and every fit starts from the prior: with labels
        that contradict each other a posterior has several modes, and a warm start would stay in the one it came from.
        """
        posterior = self._cold(decode_posterior(arrays, self._prior))
        batch: list[Event] = []
        num_groups = posterior.evidence.num_groups
        for event in events:
            new = self.events(event)
            batch += new
            num_groups += sum(map(_num_groups, new))
            if num_groups > MAX_GROUPS:
                posterior, batch = self._cold(update_many(self._population, posterior, batch)), []
                num_groups = posterior.evidence.num_groups
        if not batch and not posterior.num_events:
            return arrays
        return encode_posterior(update_many(self._population, posterior, batch))

    def _cold(self, posterior: Posterior) -> Posterior:
        """Return what was observed, with the prior's belief to start fitting from."""
        return replace(posterior, precision=self._prior.precision, shift=self._prior.shift)

    def _rated(self, event: FeedbackEvent, evidence: Arrays) -> list[Event]:
        features = {name: self._population.features(_floats(evidence[name])) for name in ROWS if name in evidence}
        who: dict[str, Any] = {"event_id": event.id, "time_s": event.created_at}
        center = np.zeros(self._population.num_features)  # the population's centre in reward features
        match event.kind:
            case FeedbackKind.THUMB | FeedbackKind.IMPLICIT:
                value = 1 if float(str(event.value)) > 0.0 else -1
                weight = IMPLICIT_WEIGHT if event.kind is FeedbackKind.IMPLICIT else 1.0
                reference = features.get("reference", center)
                return [Thumb(features=features["judged"], reference=reference, value=value, weight=weight, **who)]
            case FeedbackKind.RATING:
                share = (float(str(event.value)) - 1.0) / (NUM_STARS - 1)
                level = round(share * len(self._population.rating_cuts))
                reference = features.get("reference", center)
                return [Rating(features=features["judged"], reference=reference, level=level, **who)]
            case FeedbackKind.RANKING:
                return [Ranking(features=features["ranked"], **who)]
            case _:
                rejected = features.get("rejected", center[None])
                if len(rejected) == 1:
                    return [Comparison(chosen=features["chosen"], rejected=rejected[0], **who)]
                return [Choice(chosen=features["chosen"], rejected=rejected, **who)]

    def _remarks(self, event: FeedbackEvent) -> list[Event]:
        text = event.reason or (event.value if event.kind is FeedbackKind.COMMENT else None)
        if not isinstance(text, str):
            return []
        names = self._population.attribute_names
        verdict = (1 if event.value > 0 else -1) if isinstance(event.value, int | float) else 0
        unit = np.eye(self._population.num_features)
        return [
            Comparison(
                event_id=f"{event.id}/{name}",
                time_s=event.created_at,
                weight=REMARK_WEIGHT,
                chosen=sign * unit[names.index(name)],
                rejected=np.zeros(len(unit)),
            )
            for name, sign in attributes_named(text, names, verdict).items()
        ]

    def _is_readable(self, event: FeedbackEvent, evidence: Arrays) -> bool:
        """Whether evidence is of our feature space and of the shape its kind needs; imports bring anything."""
        if not np.array_equal(evidence.get("space", np.zeros(0)), _space_code(self._space)):
            return False
        width = len(self._population.center)
        for name, num_axes in ROWS.items():
            if name in evidence and (evidence[name].ndim != num_axes or evidence[name].shape[-1] != width):
                return False
        match event.kind:
            case FeedbackKind.THUMB | FeedbackKind.IMPLICIT:
                return "judged" in evidence and event.value in (-1, 1)
            case FeedbackKind.RATING:
                return "judged" in evidence and event.value in range(1, NUM_STARS + 1)
            case FeedbackKind.RANKING:
                return "ranked" in evidence and len(evidence["ranked"]) > 1
            case _:
                return "chosen" in evidence and bool(len(evidence.get("rejected", "-")))

    @property
    def _population(self) -> Population:
        return self.artifact.population

    @cached_property
    def _prior(self) -> Posterior:
        return prior(self._population)

    @cached_property
    def _space(self) -> str:
        return self.artifact.feature_space.id


def choices_of(record: CompletionRecord) -> Rows:
    """Return the features of what was served, (n, P), in the order of the answer's choices."""
    if record.features is None:
        raise ValueError("the completion is only announced; wait until it is stored")
    return np.asarray(record.features[served_rows(record)], dtype=np.float32)


def served_rows(record: CompletionRecord) -> list[int]:
    """Return which candidates were served, in the order of the answer's choices."""
    order = record.payload.get("order")
    rows = [row for row in order if type(row) is int] if isinstance(order, list) else []
    num_candidates = 0 if record.features is None else len(record.features)
    if not rows or not all(0 <= row < num_candidates for row in rows):  # an import's idea of an order
        rows = [record.chosen]
    return rows


def _rows_of(
    event: FeedbackEvent, choices: list[Rows], records: Sequence[CompletionRecord], measured: Rows | None
) -> Arrays | None:
    """Pick the rows by what the event says; None if it names a choice that does not exist."""
    index = event.payload.get("choice", 0)
    if event.kind in (FeedbackKind.EDIT, FeedbackKind.DEMONSTRATION):
        return _written(choices, index, measured)
    served = choices[0] if len(choices) == 1 else np.array([rows[0] for rows in choices], np.float32)
    options = served if measured is None else measured
    if event.kind is FeedbackKind.COMPARISON:
        chosen = _pick(options, event.value)
        others = np.delete(options, int(str(event.value)), axis=0) if len(chosen) else options[:0]
        return {"chosen": chosen[0], "rejected": others} if len(others) else None
    if event.kind is FeedbackKind.RANKING:
        order = event.value if isinstance(event.value, list) else []
        ranked = [row for position in order for row in _pick(options, position)]
        return {"ranked": np.stack(ranked)} if len(ranked) == len(order) >= 2 else None
    judged = _pick(options, index)
    if not len(judged):
        return None
    pool = measured if measured is not None else np.asarray(records[0].features, np.float32)
    # Without others to judge it against, the population's centre is the reference, whichever population folds it.
    return {"judged": judged[0], "reference": pool.mean(axis=0)} if len(pool) > 1 else {"judged": judged[0]}


def _written(choices: list[Rows], index: object, measured: Rows | None) -> Arrays | None:
    """Prefer what the person wrote (the first measured text) to what was shown, if anything was."""
    if measured is None:
        return None
    shown = [row for rows in choices for row in _pick(rows, index)] if choices else list(measured[1:])
    return {"chosen": measured[0], "rejected": np.stack(shown)} if shown else {"chosen": measured[0]}


def _pick(rows: Rows, index: object) -> Rows:
    """Return row `index` as (1, P), or (0, P) if there is none."""
    is_there = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(rows)
    return rows[index : index + 1] if isinstance(index, int) and is_there else rows[:0]


def _unpack(packed: object) -> Rows:
    count, _, data = str(packed).partition(":")
    return np.frombuffer(base64.b64decode(data), "<f4").reshape(int(count), -1)


def _space_code(space: str) -> Rows:
    """A feature space's id as numbers, so that evidence says by itself what it was measured in."""
    return np.frombuffer(space.encode(), np.uint8).astype(np.float32)


def _num_groups(event: Event) -> int:
    return len(event.features) - 1 if isinstance(event, Ranking) else 1


def encode_posterior(posterior: Posterior) -> Arrays:
    """Write a belief as plain numbers. Without events it is the prior, which needs no numbers."""
    num_events = np.array(posterior.num_events, np.int64)
    if not posterior.num_events:
        return {"num_events": num_events}
    arrays = dict(_numbers(posterior))
    for name in ("evidence.lows", "evidence.highs"):
        arrays[name] = np.clip(arrays[name], -LARGEST, LARGEST)
    names = "\n".join(posterior.evidence.event_ids).encode()
    return {**arrays, "num_events": num_events, "mean": posterior.mean, "event_ids": np.frombuffer(names, np.uint8)}


def _numbers(posterior: Posterior) -> Iterator[tuple[str, NDArray[np.generic]]]:
    yield "precision", posterior.precision[:, *np.triu_indices(posterior.shift.shape[1])]  # (K, L(L + 1)/2): symmetric
    yield "shift", posterior.shift
    yield "log_evidence", posterior.log_evidence
    for name in FOLDED:
        if getattr(posterior, name).any():
            yield name, getattr(posterior, name)
    yield "rates", np.array([posterior.flip_rate, posterior.folded_time_s])
    for name in EVIDENCE:
        yield f"evidence.{name}", getattr(posterior.evidence, name)


def decode_posterior(arrays: Arrays, start: Posterior) -> Posterior:
    """Read a belief back; `start` is the prior it began with. Below a millisecond."""
    if not int(arrays["num_events"]):
        return start
    rows: dict[str, Any] = {name: arrays[f"evidence.{name}"] for name in EVIDENCE}
    for name in ("lows", "highs"):
        bounds = _floats(rows[name])
        rows[name] = np.where(np.abs(bounds) >= LARGEST, np.copysign(np.inf, bounds), bounds)
    names = tuple(arrays["event_ids"].tobytes().decode().split("\n"))
    flip_rate, folded_time_s = _floats(arrays["rates"]).tolist()
    folded = {name: _floats(arrays[name]) if name in arrays else getattr(start, name) for name in FOLDED}
    return Posterior(
        precision=_symmetric(_floats(arrays["precision"]), start.shift.shape[1]),
        shift=_floats(arrays["shift"]),
        log_evidence=_floats(arrays["log_evidence"]),
        log_mixture_weights=start.log_mixture_weights,
        evidence=Evidence(**rows, event_ids=names, targets=("",) * len(names)),
        **folded,
        folded_time_s=folded_time_s,
        num_events=int(arrays["num_events"]),
        flip_rate=flip_rate,
        population_version=start.population_version,
    )


def _symmetric(halves: Array, size: int) -> Array:
    """Return the symmetric matrices (K, L, L) of upper halves (K, L(L + 1)/2)."""
    upper, lower = np.triu_indices(size)
    whole = np.empty((len(halves), size, size))
    whole[:, upper, lower] = whole[:, lower, upper] = halves
    return whole


def _floats(array: NDArray[np.generic]) -> Array:
    return np.asarray(array, dtype=np.float64)
