"""What an operator looks at first, summed up from the metrics: rates, gain, thumbs by arm, who is served worst.

Reads Prometheus' text as any scraper would, so that nothing is counted twice; a metric that is missing counts zero.
Knows no HTTP and no people.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

MIN_THUMBS = 5  # before a kind of taste can be called the worst by its thumbs
MIN_ANSWERS = 5  # or by its gain
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Sample:
    """One number with its labels."""

    labels: Mapping[str, str]
    value: float


class Samples:
    """A scrape, by metric."""

    def __init__(self, text: str) -> None:
        """Take Prometheus' text format."""
        self._samples: dict[str, list[Sample]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                self._samples[name].append(Sample(labels, float(value)))

    def of(self, name: str) -> list[Sample]:
        """Return a metric's samples; none if there is no such metric."""
        return self._samples.get(name, [])

    def total(self, name: str) -> float:
        """Add up all of a metric's samples."""
        return sum(sample.value for sample in self.of(name))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Add up a metric's samples by one label."""
        sums: dict[str, float] = defaultdict(float)
        for sample in self.of(name):
            if label in sample.labels:
                sums[sample.labels[label]] += sample.value
        return dict(sums)

    def quantile(self, name: str, share: float, labels: Mapping[str, str]) -> float | None:
        """Estimate a histogram's quantile, linear within a bucket as Prometheus does; None without observations."""
        counts: dict[float, float] = defaultdict(float)
        for sample in self.of(f"{name}_bucket"):
            if labels.items() <= sample.labels.items():
                counts[float(sample.labels["le"])] += sample.value
        bounds = sorted(counts)
        if not bounds or counts[bounds[-1]] == 0.0:
            return None
        wanted, low, before = share * counts[bounds[-1]], 0.0, 0.0
        for bound in bounds:
            if counts[bound] >= wanted:
                inside = counts[bound] - before
                return low if math.isinf(bound) or not inside else low + (bound - low) * (wanted - before) / inside
            low, before = bound, counts[bound]
        return low


@dataclass(frozen=True, slots=True)
class Thumbs:
    """Thumbs about one kind of candidate, or from one kind of taste."""

    up: int
    down: int

    @property
    def num(self) -> int:
        """How many there are."""
        return self.up + self.down


@dataclass(frozen=True, slots=True)
class Cohort:
    """What people nearest to one prototype get."""

    prototype: int
    num_answers: int
    mean_gain: float | None  # logits of a choice, the served answer over the base answer
    thumbs: Thumbs


@dataclass(frozen=True, slots=True)
class Overview:
    """Counts since the server started."""

    num_requests: int  # chat answers asked for
    num_refused: int  # of them, the sender's mistakes (4xx)
    num_failed: int  # of them, ours (5xx)
    num_running: int
    first_byte_s: tuple[float | None, float | None]  # p50, p95
    answers: dict[str, int]  # by whether and why personalized
    choices: dict[str, int]  # by why the winner won
    feedback: dict[str, int]  # by kind
    num_candidates: int
    num_served_tokens: int
    num_spent_tokens: int  # on candidates that were not served
    mean_gain: float | None
    thumbs: dict[str, Thumbs]  # by arm
    cohorts: tuple[Cohort, ...]

    @property
    def worst(self) -> int | None:
        """The prototype whose people are served worst; None while too little is known to say."""
        judged = [one for one in self.cohorts if one.thumbs.num >= MIN_THUMBS]
        if len(judged) > 1:
            return min(judged, key=lambda one: one.thumbs.up / one.thumbs.num).prototype
        gained = [one for one in self.cohorts if one.mean_gain is not None and one.num_answers >= MIN_ANSWERS]
        return min(gained, key=lambda one: one.mean_gain or 0.0).prototype if len(gained) > 1 else None


def overview(text: str) -> Overview:
    """Sum up a scrape."""
    samples = Samples(text)
    chat = [sample for sample in samples.of("palate_requests_total") if sample.labels.get("path") == CHAT]
    tokens = samples.by("palate_candidate_tokens_total", "fate")
    return Overview(
        num_requests=_count(chat, ""),
        num_refused=_count(chat, "4"),
        num_failed=_count(chat, "5"),
        num_running=int(samples.total("palate_generations_running")),
        first_byte_s=(
            samples.quantile("palate_first_byte_seconds", 0.5, {"path": CHAT}),
            samples.quantile("palate_first_byte_seconds", 0.95, {"path": CHAT}),
        ),
        answers=_whole(samples.by("palate_answers_total", "reason")),
        choices=_whole(samples.by("palate_choices_total", "reason")),
        feedback=_whole(samples.by("palate_feedback_total", "kind")),
        num_candidates=int(samples.total("palate_candidates_total")),
        num_served_tokens=int(tokens.get("served", 0)),
        num_spent_tokens=int(tokens.get("spent", 0)),
        mean_gain=_mean(
            samples.total("palate_reward_gain_logits_sum"), samples.total("palate_reward_gain_logits_count")
        ),
        thumbs=_thumbs(samples, "arm"),
        cohorts=_cohorts(samples),
    )


def _count(chat: Iterable[Sample], first_digit: str) -> int:
    return int(sum(sample.value for sample in chat if sample.labels.get("status", "").startswith(first_digit)))


def _whole(sums: Mapping[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in sums.items()}


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


def _thumbs(samples: Samples, label: str) -> dict[str, Thumbs]:
    counts: dict[str, dict[str, float]] = defaultdict(lambda: {"up": 0.0, "down": 0.0})
    for sample in samples.of("palate_thumbs_total"):
        if label in sample.labels and sample.labels.get("value") in ("up", "down"):
            counts[sample.labels[label]][sample.labels["value"]] += sample.value
    return {name: Thumbs(int(found["up"]), int(found["down"])) for name, found in sorted(counts.items())}


def _cohorts(samples: Samples) -> tuple[Cohort, ...]:
    sums = samples.by("palate_reward_gain_logits_sum", "prototype")
    counts = samples.by("palate_reward_gain_logits_count", "prototype")
    thumbs = _thumbs(samples, "prototype")
    names = sorted({int(name) for name in [*counts, *thumbs] if name.isdigit()})
    return tuple(
        Cohort(
            name,
            int(counts.get(str(name), 0)),
            _mean(sums.get(str(name), 0.0), counts.get(str(name), 0.0)),
            thumbs.get(str(name), Thumbs(0, 0)),
        )
        for name in names
    )
