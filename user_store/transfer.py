"""A person's data as JSON lines: what they take away, what they bring along, what moves between stores.

The first line is the profile, then come events, completions and the posterior, each with a `type`. Arrays are written
as readable numbers that give back the same bits. Who a line belongs to is the importer's decision, never the line's.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from user_store import codec
from user_store.codec import Json
from user_store.errors import Conflict, CorruptRecord, Expired, NotFound
from user_store.store import UserStore
from user_store.types import CompletionRecord, FeedbackEvent, LogPosition, Profile, StoredPosterior, UserKey
from user_store.validation import Array, Arrays, JsonValue

EXPORT_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class UserExport:
    """Everything that is kept about one person. `posterior` is there only if it has seen the whole log."""

    profile: Profile
    events: tuple[FeedbackEvent, ...] = ()
    completions: tuple[CompletionRecord, ...] = ()
    posterior: StoredPosterior | None = None


@dataclass(frozen=True, slots=True)
class ImportReceipt:
    """What an import changed; events that were there already are duplicates."""

    events: int
    duplicates: int
    completions: int
    has_posterior: bool


async def export_user(store: UserStore, key: UserKey, *, now: float) -> UserExport:
    """Read everything about a person."""
    before = await store.get_state(key)
    events = await store.read_log(key)
    state = await store.get_state(key)
    # If the log moved while it was read, the posterior may not match these events: leave it to be rebuilt.
    is_whole = state.is_current and state.position == before.position
    return UserExport(
        profile=state.profile,
        events=tuple(events),
        completions=tuple(await store.list_completions(key, now=now)),
        posterior=state.posterior if is_whole else None,
    )


async def import_user(store: UserStore, key: UserKey, export: UserExport, *, now: float) -> ImportReceipt:
    """Add an export to a person, new or known; may be repeated after a failure.

    A profile with decisions replaces the stored one. The posterior is taken over only by a person without events;
    otherwise it is rebuilt from the joined log. Conflict if an event or completion is somebody else's in the tenant.
    """
    before = await store.get_state(key)
    events = [replace(event, key=key, seq=0) for event in export.events]
    completions = [record for record in export.completions if record.expires_at > now]
    for event in events:
        await _check_owner(store, event)
    for record in completions:
        await _check_answerer(store, key, record, now)
    receipts = await store.append_events(events)
    for record in completions:
        await store.put_completion(replace(record, key=key))
    await _import_profile(store, key, export.profile)
    duplicates = sum(receipt.is_duplicate for receipt in receipts)
    state = await store.get_state(key)
    is_alone = before.position.seq == 0 and state.position.seq == len(events) - duplicates and state.posterior is None
    if export.posterior is not None and is_alone:
        posterior = replace(export.posterior, position=state.position, version=0)
        await store.put_posterior(key, posterior, expected_version=0)
    has_posterior = export.posterior is not None and is_alone
    return ImportReceipt(len(events) - duplicates, duplicates, len(completions), has_posterior)


async def _check_owner(store: UserStore, event: FeedbackEvent) -> None:
    try:
        found = await store.find_event(event.key.tenant, event.id)
    except NotFound:
        return
    if found.key != event.key:
        raise Conflict("an event of this import belongs to another person; give it another id", current_version=0)


async def _check_answerer(store: UserStore, key: UserKey, record: CompletionRecord, now: float) -> None:
    try:
        found = await store.get_completion(key.tenant, record.id, now=now)
    except (NotFound, Expired):
        return
    if found.key != key:
        raise Conflict("a completion of this import belongs to another person; leave it out", current_version=0)


async def _import_profile(store: UserStore, key: UserKey, profile: Profile) -> None:
    if profile.version == 0:
        return
    current = (await store.get_state(key)).profile
    await store.put_profile(key, profile, expected_version=current.version)


def export_lines(export: UserExport) -> Iterator[str]:
    """Write an export as JSON lines, without line ends."""
    profile = cast("Json", json.loads(codec.profile_body(export.profile)))
    is_decided = export.profile.version > 0
    head: Json = {"type": "profile", "format": EXPORT_VERSION, "created_at": export.profile.created_at}
    yield codec.dump_json({**head, "is_decided": is_decided, **profile})
    for event in export.events:
        body = cast("Json", json.loads(codec.event_body(event)))
        flags: Json = {"is_withdrawn": event.is_withdrawn, "is_pending": event.is_pending}
        yield codec.dump_json({"type": "event", **body, **flags, "evidence": _dump_arrays(event.evidence)})
    for record in export.completions:
        body = cast("Json", json.loads(codec.completion_body(record)))
        features = None if record.features is None else {"features": record.features}
        yield codec.dump_json({"type": "completion", **body, "arrays": _dump_arrays(features)})
    if export.posterior is not None:
        head = {"type": "posterior", "population": export.posterior.population}
        head["updated_at"] = export.posterior.updated_at
        yield codec.dump_json({**head, "arrays": _dump_arrays(export.posterior.arrays)})


def parse_lines(key: UserKey, lines: Iterable[str]) -> UserExport:
    """Read JSON lines back, as the given person's. ValueError names the line that cannot be used."""
    export = UserExport(Profile())
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            export = _with_line(export, key, line, number)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"line {number} of the import is incomplete: {error!r}") from None
        except (ValueError, CorruptRecord) as error:
            raise ValueError(f"line {number} of the import cannot be used: {error}") from None
    return export


def _with_line(export: UserExport, key: UserKey, line: str, number: int) -> UserExport:
    fields = json.loads(line)
    kind = fields.pop("type", None)
    if kind == "profile":
        if fields["format"] != EXPORT_VERSION:
            raise ValueError(f"format {fields['format']!r} is not {EXPORT_VERSION}; export it again with this version")
        profile = codec.decode_profile(line, created_at=fields["created_at"], version=int(fields["is_decided"]))
        return replace(export, profile=profile)
    if kind == "event":
        evidence = _load_arrays(fields.pop("evidence"))
        body = codec.dump_json(fields)
        event = codec.decode_event(key, body, None, seq=number, is_withdrawn=bool(fields["is_withdrawn"]))
        is_pending = event.is_pending and evidence is None
        return replace(export, events=(*export.events, replace(event, evidence=evidence, is_pending=is_pending)))
    if kind == "completion":
        arrays = _load_arrays(fields.pop("arrays"))
        data = None if arrays is None else codec.dump_arrays(arrays)
        record = codec.decode_completion(key.tenant, codec.dump_json({**fields, "user": key.user}), data)
        return replace(export, completions=(*export.completions, record))
    if kind == "posterior":
        arrays = _load_arrays(fields["arrays"]) or {}
        posterior = StoredPosterior(arrays, fields["population"], LogPosition(), fields["updated_at"])
        return replace(export, posterior=posterior)
    raise ValueError(f"type {kind!r} is unknown; lines are profile, event, completion or posterior")


def _dump_arrays(arrays: Arrays | None) -> JsonValue:
    if arrays is None:
        return None
    return {
        name: {"dtype": array.dtype.name, "shape": list(array.shape), "values": array.ravel().tolist()}
        for name, array in arrays.items()
    }


def _load_arrays(value: JsonValue) -> dict[str, Array] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("arrays must be an object of named arrays")
    return {name: _load_array(cast("Json", item)) for name, item in value.items()}


def _load_array(item: Json) -> Array:
    dtype = cast("str", item["dtype"])
    if dtype not in {"float32", "float64", "int32", "int64", "uint8", "bool"}:
        raise ValueError(f"dtype {dtype!r} is not a plain number")
    array = np.array(item["values"], dtype=dtype)
    return cast("Array", array.reshape(cast("list[int]", item["shape"])))
