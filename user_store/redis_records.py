"""How a person, an event and a completion look in Redis: key names, script arguments, and replies as records.

Knows nothing about connections. Names and fields are described in `docs/store.md`.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from user_store import codec
from user_store.errors import Conflict, NotFound
from user_store.redis_client import Argument
from user_store.types import AppendReceipt, FeedbackEvent, LogPosition, StoredPosterior, UserKey, UserState

MAX_PAGE_BYTES = 4_194_304
MAX_PAGE_EVENTS = 500
STATE_FIELDS = ("epoch", "created", "seq", "rev", "profile", "profile_v")
POSTERIOR_FIELDS = ("post", "post_v", "post_seq", "post_rev", "post_pop", "post_at")


def person_keys(key: UserKey, *names: str) -> list[str]:
    """Name a person's keys; the user id is percent-encoded, so that no id can reach another's keys."""
    return [f"palate:{{{key.tenant}:{quote(key.user, safe='')}}}:{name}" for name in names]


def completion_keys(tenant: str, completion_id: str) -> list[str]:
    """Name a completion's data and tombstone."""
    return [f"palate:{{{tenant}/c/{completion_id}}}:{name}" for name in ("data", "gone")]


def event_pointer(tenant: str, event_id: str) -> str:
    """Name the key that says whose an event is."""
    return f"palate:{{{tenant}/e/{event_id}}}:user"


def people_registry(tenant: str) -> str:
    """Name the sorted set of a tenant's people."""
    return f"palate:{{{tenant}}}:people"


TENANTS = "palate:tenants"
SCHEMA = "palate:schema"


def text_of(value: bytes | str | None) -> str:
    """Decode what a reply holds; an absent one is empty."""
    return value.decode() if isinstance(value, bytes) else value or ""


def texts_of(values: Sequence[bytes]) -> list[str]:
    """Decode a list of names."""
    return [value.decode() for value in values]


def append_pages(events: Sequence[FeedbackEvent]) -> Iterator[list[Argument]]:
    """Lay out events for one `redis_scripts.APPEND` after the other: a few megabytes or a few hundred events each."""
    page: list[Argument] = []
    size = 0
    for event in events:
        arguments = event_arguments(event)
        page += arguments
        size += sum(len(part) for part in arguments if isinstance(part, str | bytes))
        if size > MAX_PAGE_BYTES or len(page) >= MAX_PAGE_EVENTS * len(arguments):
            yield page
            page, size = [], 0
    if page:
        yield page


def event_arguments(event: FeedbackEvent) -> list[Argument]:
    """Lay out an event as `redis_scripts.APPEND` expects it."""
    evidence = codec.dump_arrays(event.evidence) if event.evidence is not None else b""
    return [
        event.id,
        event.idempotency_key or "",
        event.subject or "",
        repr(event.created_at),
        codec.event_body(event),
        evidence,
        int(event.is_pending and not event.is_withdrawn),
        int(event.is_withdrawn),
    ]


def receipt_of(row: Sequence[Any]) -> AppendReceipt:
    """Read one row of the reply to an append."""
    event_id, is_duplicate, epoch, seq, revision = row
    return AppendReceipt(event_id.decode(), bool(is_duplicate), LogPosition(epoch.decode(), seq, revision))


def event_of(key: UserKey, row: Sequence[Any]) -> FeedbackEvent:
    """Read a log entry."""
    seq, body, evidence, is_withdrawn = row
    return codec.decode_event(key, body, evidence or None, seq=int(seq), is_withdrawn=bool(is_withdrawn))


def own_event_of(key: UserKey, row: Sequence[Any]) -> FeedbackEvent:
    """Read a log entry; NotFound if the reply is empty."""
    if not row:
        raise NotFound("this person has no feedback with this id")
    return event_of(key, row)


def state_of(key: UserKey, row: Sequence[Any], num_pending: int) -> UserState:
    """Read a person's state from STATE_FIELDS and POSTERIOR_FIELDS."""
    epoch, created, seq, rev, profile, profile_version = row[:6]
    if epoch is None:
        return UserState(key)
    return UserState(
        key=key,
        profile=codec.decode_profile(profile, created_at=float(created), version=int(profile_version or 0)),
        posterior=posterior_of(epoch.decode(), row[6:]),
        position=LogPosition(epoch.decode(), int(seq or 0), int(rev or 0)),
        num_pending=num_pending,
    )


def posterior_of(epoch: str, row: Sequence[Any]) -> StoredPosterior | None:
    """Read a posterior from POSTERIOR_FIELDS."""
    blob, version, seq, revision, population, updated_at = row
    if blob is None:
        return None
    position = LogPosition(epoch, int(seq), int(revision))
    arrays = codec.load_arrays(blob, "a posterior")
    return StoredPosterior(arrays, population.decode(), position, float(updated_at), int(version))


def settled_version(outcome: Sequence[int], expected: int) -> int:
    """Read the outcome of a compare-and-set; Conflict if it lost."""
    is_written, version = outcome
    if not is_written:
        raise Conflict(f"version {expected} was expected, {version} is stored; read again", current_version=version)
    return version
