"""The records a store keeps: events, completions, profiles, posteriors; all frozen, all validated on construction.

Nothing here knows how or where they are stored, and the store knows nothing about what the arrays mean: evidence and
posteriors are named arrays that the preference model reads and writes. Times are seconds since 1970, from the caller.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from user_store.validation import (
    MAX_CANDIDATES,
    MAX_COMPLETION_IDS,
    MAX_EVIDENCE_BYTES,
    MAX_METADATA_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_POSTERIOR_BYTES,
    MAX_USER_CHARS,
    Array,
    Arrays,
    JsonValue,
    check_id,
    check_json,
    check_label,
    check_tenant,
    check_text,
    check_time,
    frozen_array,
    frozen_arrays,
)


class FeedbackKind(StrEnum):
    """Every kind of feedback a person can give, or that a conversation can imply."""

    THUMB = "thumb"
    RATING = "rating"
    COMPARISON = "comparison"
    RANKING = "ranking"
    COMMENT = "comment"
    DEMONSTRATION = "demonstration"
    EDIT = "edit"
    IMPLICIT = "implicit"


@dataclass(frozen=True, slots=True, order=True)
class UserKey:
    """A person within a tenant: the scope of every read and write."""

    tenant: str
    user: str

    def __post_init__(self) -> None:
        check_tenant(self.tenant)
        check_label("user", self.user, MAX_USER_CHARS)


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A point in one person's log, and which history it belongs to.

    `seq` is the last event's number (1, 2, …). `revision` counts changes to what was already there: a withdrawal,
    evidence that came late, an event that replaces an earlier one. `epoch` is a random token that changes when the
    person is deleted and returns, so that nothing computed from the deleted log can be written back.
    """

    epoch: str = ""
    seq: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class FeedbackEvent:
    """One piece of feedback with the evidence it rests on.

    `evidence` holds the features the event was about (float32, for example `chosen` (D,) and `rejected` (M, D)), so
    that posteriors can be rebuilt from the log alone. `is_pending` says that it follows when the completion is stored.
    Of several events with one `subject` the latest counts; one that `is_late`, since it waited elsewhere for the store,
    replaces only what was said before it. `seq` and `is_withdrawn` belong to the store.
    """

    id: str
    key: UserKey
    kind: FeedbackKind
    created_at: float
    completion_ids: tuple[str, ...] = ()
    value: JsonValue = None
    reason: str | None = None
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    payload: Mapping[str, JsonValue] = field(default_factory=dict)
    evidence: Arrays | None = None
    idempotency_key: str | None = None
    subject: str | None = None
    is_inferred: bool = False
    is_pending: bool = False
    is_late: bool = False
    is_withdrawn: bool = False
    seq: int = 0

    def __post_init__(self) -> None:
        check_id("id", self.id)
        check_time("created_at", self.created_at)
        if self.kind not in set(FeedbackKind):
            raise ValueError(f"kind must be one of {', '.join(FeedbackKind)}, not {self.kind!r}")
        object.__setattr__(self, "kind", FeedbackKind(self.kind))
        self._check_completion_ids()
        check_json("value", self.value, MAX_PAYLOAD_BYTES)
        check_json("metadata", dict(self.metadata), MAX_METADATA_BYTES)
        check_json("payload", dict(self.payload), MAX_PAYLOAD_BYTES)
        if self.reason is not None:
            check_text("reason", self.reason)
        if self.idempotency_key is not None:
            check_label("idempotency_key", self.idempotency_key)
        if self.subject is not None:
            check_label("subject", self.subject)
        if self.evidence is not None:
            object.__setattr__(self, "evidence", frozen_evidence(self.evidence))

    def _check_completion_ids(self) -> None:
        object.__setattr__(self, "completion_ids", tuple(self.completion_ids))
        if len(self.completion_ids) > MAX_COMPLETION_IDS:
            raise ValueError(f"completion_ids must name at most {MAX_COMPLETION_IDS} completions; send several events")
        for completion_id in self.completion_ids:
            check_id("completion_id", completion_id)
        if self.is_pending and (self.evidence is not None or not self.completion_ids):
            raise ValueError("a pending event names the completions it waits for and carries no evidence yet")


def frozen_evidence(evidence: Arrays) -> Arrays:
    """Copy an event's evidence, read-only; float32 only, so that a rebuilt posterior is the same everywhere."""
    for name, array in evidence.items():
        if array.dtype != np.float32:
            raise ValueError(f"evidence {name!r} must be float32, not {array.dtype}; convert it")
    return frozen_arrays("evidence", evidence, MAX_EVIDENCE_BYTES)


def check_one_person(events: Sequence[FeedbackEvent]) -> None:
    """Refuse a batch over several people: their logs may live on different machines."""
    if len({event.key for event in events}) > 1:
        raise ValueError("events of one call must belong to one person; make one call per person")


@dataclass(frozen=True, slots=True, eq=False)
class CompletionRecord:
    """One answer with its candidates' features, kept for a while so that feedback needs no second forward pass.

    Without `features` it is only announced: the answer is still being made, and feedback may already arrive.
    """

    id: str
    key: UserKey
    created_at: float
    expires_at: float
    features: Array | None = None  # (N, D) float32
    arms: tuple[str, ...] = ()  # N
    chosen: int = 0
    artifact_version: str = ""
    texts: tuple[str, ...] | None = None  # N, only where the configuration says so
    payload: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_id("id", self.id)
        check_time("created_at", self.created_at)
        check_time("expires_at", self.expires_at)
        check_json("payload", dict(self.payload), MAX_PAYLOAD_BYTES)
        if self.expires_at <= self.created_at:
            raise ValueError("expires_at must come after created_at")
        if self.artifact_version:
            check_label("artifact_version", self.artifact_version)
        if self.features is not None:
            self._check_candidates(self.features)

    def _check_candidates(self, features: Array) -> None:
        if features.dtype != np.float32 or features.ndim != 2 or not 1 <= len(features) <= MAX_CANDIDATES:
            raise ValueError(f"features must be float32 with shape (N, D) and N from 1 to {MAX_CANDIDATES}")
        if len(self.arms) != len(features) or not 0 <= self.chosen < len(features):
            raise ValueError("arms must name every row of features, and chosen must be one of them")
        if self.texts is not None and len(self.texts) != len(features):
            raise ValueError("texts must hold one text per row of features")
        for text in (*self.arms, *(self.texts or ())):
            check_text("text of a completion", text, MAX_PAYLOAD_BYTES)
        object.__setattr__(self, "features", frozen_array("features", features))

    @property
    def is_announced_only(self) -> bool:
        """Whether the answer is not stored yet."""
        return self.features is None


@dataclass(frozen=True, slots=True)
class Profile:
    """What a person decided about their own model: attributes pinned to a level or barred, learning paused."""

    pins: Mapping[str, float] = field(default_factory=dict)
    bars: frozenset[str] = frozenset()
    is_learning_paused: bool = False
    created_at: float = 0.0
    version: int = 0

    def __post_init__(self) -> None:
        for name, level in self.pins.items():
            check_label("pinned attribute", name, 64)
            if not math.isfinite(level):
                raise ValueError(f"the pin of {name!r} must be a finite number")
        for name in self.bars:
            check_label("barred attribute", name, 64)
        if both := self.bars & set(self.pins):
            raise ValueError(f"pin or bar {', '.join(sorted(both))}, not both")
        if len(self.pins) + len(self.bars) > 256:
            raise ValueError("at most 256 attributes can be pinned or barred")
        check_time("created_at", self.created_at)
        object.__setattr__(self, "pins", MappingProxyType(dict(sorted(self.pins.items()))))
        object.__setattr__(self, "bars", frozenset(self.bars))


@dataclass(frozen=True, slots=True, eq=False)
class StoredPosterior:
    """A person's posterior as opaque arrays, with what it was computed from.

    `version` counts writes (for compare-and-set), `population` names the prior, `position` the log it has seen.
    """

    arrays: Arrays
    population: str
    position: LogPosition
    updated_at: float
    version: int = 0

    def __post_init__(self) -> None:
        check_label("population", self.population)
        check_time("updated_at", self.updated_at)
        object.__setattr__(self, "arrays", frozen_arrays("posterior", self.arrays, MAX_POSTERIOR_BYTES))


@dataclass(frozen=True, slots=True, eq=False)
class UserState:
    """All that the request path needs of one person, from one read.

    `num_pending` counts the events that wait for their completions.
    """

    key: UserKey
    profile: Profile = field(default_factory=Profile)
    posterior: StoredPosterior | None = None
    position: LogPosition = field(default_factory=LogPosition)
    num_pending: int = 0

    @property
    def is_known(self) -> bool:
        """Whether anything was ever stored about this person since their last deletion."""
        return self.position.epoch != ""

    @property
    def is_current(self) -> bool:
        """Whether the posterior has seen the whole log; false after a crash between log and posterior."""
        seen = self.posterior.position if self.posterior else LogPosition(self.position.epoch)
        return seen == self.position


@dataclass(frozen=True, slots=True)
class AppendReceipt:
    """Proof that an event is on disk; of a repeated event, the first one's id."""

    event_id: str
    is_duplicate: bool
    position: LogPosition


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to list: oldest first, person by person, like an OpenAI list with `after` = the last id seen."""

    user: str | None = None
    kind: FeedbackKind | None = None
    since: float | None = None
    limit: int = 20
    after: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 1000:
            raise ValueError(f"limit must be 1 to 1000, not {self.limit}")
        if self.user is not None:
            check_label("user", self.user, MAX_USER_CHARS)
        if self.after is not None:
            check_id("after", self.after)
        if self.since is not None:
            check_time("since", self.since)


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of a list."""

    data: tuple[FeedbackEvent, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class DeletionReceipt:
    """What was erased."""

    key: UserKey
    events: int
    completions: int
    posteriors: int
    profiles: int


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """A backend's condition. `durability` is 'always' when an acknowledged event survives a power cut."""

    backend: str
    is_available: bool
    durability: str
    schema_version: int
    detail: str = ""
