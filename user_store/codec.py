"""Records as bytes and back: JSON for what is named, safetensors for arrays; never pickle.

A record's `seq`, `is_withdrawn`, version and position live in columns or fields of their own, since they change.
Knows nothing about any backend. Undecodable bytes raise CorruptRecord.
"""

import json
from collections.abc import Mapping
from typing import cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from user_store.errors import CorruptRecord
from user_store.types import CompletionRecord, FeedbackEvent, FeedbackKind, Profile, UserKey
from user_store.validation import Array, Arrays, JsonValue

Json = dict[str, JsonValue]


def dump_arrays(arrays: Arrays) -> bytes:
    """Encode named arrays; the same arrays always give the same bytes."""
    return save({name: cast("np.ndarray[tuple[int, ...], np.dtype[np.generic]]", arrays[name]) for name in arrays})


def load_arrays(data: bytes, what: str) -> dict[str, Array]:
    """Decode named arrays; `what` names the record in the error."""
    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptRecord(f"the arrays of {what} cannot be read: {error}; rebuild or delete them") from None


def dump_json(value: object) -> str:
    """Encode as compact ASCII, so that every backend and every console can hold it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def load_json(data: str | bytes, what: str) -> Json:
    """Decode a JSON object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptRecord(f"the JSON of {what} cannot be read; restore it from a backup") from None
    if not isinstance(value, dict):
        raise CorruptRecord(f"the JSON of {what} is not an object; restore it from a backup")
    return value


def event_body(event: FeedbackEvent) -> str:
    """Encode all of an event but its evidence and what belongs to the store."""
    body: dict[str, object] = {"id": event.id, "kind": event.kind.value, "created_at": event.created_at}
    if event.value is not None:
        body["value"] = event.value
    optional: dict[str, object] = {
        "completion_ids": list(event.completion_ids),
        "reason": event.reason,
        "metadata": dict(event.metadata),
        "payload": dict(event.payload),
        "idempotency_key": event.idempotency_key,
        "subject": event.subject,
        "is_inferred": event.is_inferred,
        "is_pending": event.is_pending,
        "is_late": event.is_late,
    }
    empty: tuple[object, ...] = (None, False, [], {})
    body.update({name: value for name, value in optional.items() if value not in empty})
    return dump_json(body)


def decode_event(
    key: UserKey, body: str | bytes, evidence: bytes | None, *, seq: int, is_withdrawn: bool
) -> FeedbackEvent:
    """Rebuild an event from its parts."""
    what = f"event {seq} of tenant {key.tenant}"
    fields = load_json(body, what)
    arrays = load_arrays(evidence, what) if evidence else None
    try:
        return FeedbackEvent(
            id=cast("str", fields["id"]),
            key=key,
            kind=FeedbackKind(cast("str", fields["kind"])),
            created_at=cast("float", fields["created_at"]),
            completion_ids=tuple(cast("list[str]", fields.get("completion_ids", []))),
            value=fields.get("value"),
            reason=cast("str | None", fields.get("reason")),
            metadata=cast("Json", fields.get("metadata", {})),
            payload=cast("Json", fields.get("payload", {})),
            evidence=arrays,
            idempotency_key=cast("str | None", fields.get("idempotency_key")),
            subject=cast("str | None", fields.get("subject")),
            is_inferred=bool(fields.get("is_inferred", False)),
            # Late evidence or a withdrawal settles the event; the body stays as it was written.
            is_pending=bool(fields.get("is_pending", False)) and arrays is None and not is_withdrawn,
            is_late=bool(fields.get("is_late", False)),
            is_withdrawn=is_withdrawn,
            seq=seq,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRecord(f"{what} cannot be read: {error}; restore it from a backup") from None


def completion_body(record: CompletionRecord) -> str:
    """Encode all of a completion but its features."""
    return dump_json(
        {
            "id": record.id,
            "user": record.key.user,
            "created_at": record.created_at,
            "expires_at": record.expires_at,
            "arms": list(record.arms),
            "chosen": record.chosen,
            "artifact_version": record.artifact_version,
            "texts": None if record.texts is None else list(record.texts),
            "payload": dict(record.payload),
        }
    )


def decode_completion(tenant: str, body: str | bytes, features: bytes | None) -> CompletionRecord:
    """Rebuild a completion from its parts."""
    what = f"a completion of tenant {tenant}"
    fields = load_json(body, what)
    texts = cast("list[str] | None", fields.get("texts"))
    try:
        return CompletionRecord(
            id=cast("str", fields["id"]),
            key=UserKey(tenant, cast("str", fields["user"])),
            created_at=cast("float", fields["created_at"]),
            expires_at=cast("float", fields["expires_at"]),
            features=load_arrays(features, what)["features"] if features else None,
            arms=tuple(cast("list[str]", fields["arms"])),
            chosen=cast("int", fields["chosen"]),
            artifact_version=cast("str", fields["artifact_version"]),
            texts=None if texts is None else tuple(texts),
            payload=cast("Json", fields.get("payload", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRecord(f"{what} cannot be read: {error}; it will expire by itself") from None


def completion_features(record: CompletionRecord) -> bytes | None:
    """Encode the features, None for an announced completion."""
    return None if record.features is None else dump_arrays({"features": record.features})


def profile_body(profile: Profile) -> str:
    """Encode what the person decided; creation time and version have fields of their own."""
    return dump_json(
        {
            "pins": dict(profile.pins),
            "bars": sorted(profile.bars),
            "is_learning_paused": profile.is_learning_paused,
        }
    )


def decode_profile(body: str | bytes | None, *, created_at: float, version: int) -> Profile:
    """Rebuild a profile; without a body, the default one."""
    if not body:
        return Profile(created_at=created_at, version=version)
    fields = load_json(body, "a profile")
    try:
        return Profile(
            pins=cast("Mapping[str, float]", fields.get("pins", {})),
            bars=frozenset(cast("list[str]", fields.get("bars", []))),
            is_learning_paused=bool(fields.get("is_learning_paused", False)),
            created_at=created_at,
            version=version,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(f"a profile cannot be read: {error}; write it anew") from None
