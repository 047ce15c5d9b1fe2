"""The shared store: Redis, from one server to a cluster, for several replicas of the service.

A person's keys share the hash tag {tenant:user}; Lua scripts (`redis_scripts`) make each change atomic. Registries and
pointers live elsewhere, so they are written after the data and removed before it: what was acknowledged is always
found, and what is found dangling is ignored. Durable only with `appendfsync always` (docs/store.md).
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from user_store import codec
from user_store import redis_scripts as lua
from user_store.errors import CorruptRecord, Expired, NotFound, StoreUnavailable
from user_store.redis_client import Argument, RedisBackend
from user_store.redis_records import (
    POSTERIOR_FIELDS,
    SCHEMA,
    STATE_FIELDS,
    TENANTS,
    append_pages,
    completion_keys,
    event_of,
    event_pointer,
    own_event_of,
    people_registry,
    person_keys,
    posterior_of,
    receipt_of,
    settled_version,
    state_of,
    text_of,
    texts_of,
)
from user_store.store import TOMBSTONE_S
from user_store.types import (
    AppendReceipt,
    CompletionRecord,
    DeletionReceipt,
    EventFilter,
    EventPage,
    FeedbackEvent,
    Profile,
    StoredPosterior,
    StoreHealth,
    UserKey,
    UserState,
    check_one_person,
    frozen_evidence,
)
from user_store.validation import Arrays, check_tenant

PAGE_EVENTS = 200
PAGE_USERS = 500


class RedisStore:
    """A `UserStore` on Redis. Use `open.open_store`, which checks the schema first."""

    def __init__(self, backend: RedisBackend) -> None:
        self.backend = backend

    async def append_event(self, event: FeedbackEvent) -> AppendReceipt:
        """Append one event."""
        return (await self.append_events([event]))[0]

    async def append_events(self, events: Sequence[FeedbackEvent]) -> list[AppendReceipt]:
        """Append events of one person, several scripts for many, so that no script blocks Redis for long."""
        check_one_person(events)
        receipts: list[AppendReceipt] = []
        for arguments in append_pages(events):
            receipts += await self._append(events[0].key, arguments)
        return receipts

    async def _append(self, key: UserKey, arguments: Sequence[Argument]) -> list[AppendReceipt]:
        keys = person_keys(key, "state", "log", "index", "pending")
        rows = await self.backend.script(lua.APPEND, keys, [secrets.token_hex(8), *arguments])
        receipts = [receipt_of(row) for row in rows]
        await self._register(key, [receipt.event_id for receipt in receipts])
        return receipts

    async def _register(self, key: UserKey, event_ids: Sequence[str]) -> None:
        """Make a person and their events findable; take it back if they were deleted meanwhile."""
        commands: list[list[Argument]] = [["SADD", TENANTS, key.tenant]]
        commands.append(["ZADD", people_registry(key.tenant), 0, key.user])
        commands += [["SET", event_pointer(key.tenant, event_id), key.user] for event_id in event_ids]
        if not event_ids:
            await self.backend.call_all(commands)
            return
        (index,) = person_keys(key, "index")
        look = ["HMGET", index, *(f"i:{event_id}" for event_id in event_ids)]
        found = (await self.backend.call_in_order(commands, [look]))[-1]
        gone = [event_id for event_id, seq in zip(event_ids, found, strict=True) if seq is None]
        if gone:
            await self._forget_pointers(key.tenant, gone, [])
            await self._unregister_if_gone(key)

    async def _unregister_if_gone(self, key: UserKey) -> None:
        registry, (state,) = people_registry(key.tenant), person_keys(key, "state")
        await self.backend.call("ZREM", registry, key.user)
        # Somebody may have written since; whoever writes after this look registers by themselves.
        if await self.backend.call("EXISTS", state):
            await self.backend.call("ZADD", registry, 0, key.user)

    async def list_events(self, tenant: str, query: EventFilter) -> EventPage:
        """List events."""
        check_tenant(tenant)
        after_user, after_seq = query.user or "", 0
        if query.after is not None:
            last = await self._found(tenant, query)
            after_user, after_seq = last.key.user, last.seq
        found: list[FeedbackEvent] = []
        if query.user is not None or query.after is not None:
            found = await self._matching(UserKey(tenant, after_user), query, after_seq, query.limit + 1)
        if query.user is None:
            async for key in self._users_after(tenant, after_user):
                if len(found) > query.limit:
                    break
                found += await self._matching(key, query, 0, query.limit + 1 - len(found))
        return EventPage(tuple(found[: query.limit]), has_more=len(found) > query.limit)

    async def _found(self, tenant: str, query: EventFilter) -> FeedbackEvent:
        event_id = query.after or ""
        try:
            if query.user is None:
                return await self.find_event(tenant, event_id)
            return await self._own_event(UserKey(tenant, query.user), event_id)
        except NotFound:
            raise NotFound("no event has the id given as `after`; start the list anew") from None

    async def _matching(self, key: UserKey, query: EventFilter, seq: int, count: int) -> list[FeedbackEvent]:
        found: list[FeedbackEvent] = []
        while len(found) < count:
            page = await self._log_page(key, seq, PAGE_EVENTS)
            found += [
                event
                for event in page
                if (query.kind is None or event.kind == query.kind)
                and (query.since is None or event.created_at >= query.since)
            ]
            if len(page) < PAGE_EVENTS:
                break
            seq = page[-1].seq
        return found[:count]

    async def _log_page(self, key: UserKey, after_seq: int, count: int) -> list[FeedbackEvent]:
        rows = await self.backend.script(lua.READ_LOG, person_keys(key, "log", "index", "late"), [after_seq, count])
        return [event_of(key, row) for row in rows]

    async def read_log(self, key: UserKey, *, after_seq: int = 0) -> list[FeedbackEvent]:
        """Read one person's log."""
        events: list[FeedbackEvent] = []
        while page := await self._log_page(key, after_seq, PAGE_EVENTS):
            events += page
            if len(page) < PAGE_EVENTS:
                break
            after_seq = page[-1].seq
        return events

    async def list_pending(self, key: UserKey) -> list[FeedbackEvent]:
        """Read one person's events that wait."""
        rows = await self.backend.script(lua.READ_PENDING, person_keys(key, "log", "index", "late", "pending"), [])
        return sorted((event_of(key, row) for row in rows), key=lambda event: event.seq)

    async def find_event(self, tenant: str, event_id: str) -> FeedbackEvent:
        """Find an event by id."""
        check_tenant(tenant)
        user = await self.backend.call("GET", event_pointer(tenant, event_id))
        if user is None:
            raise NotFound("there is no feedback with this id")
        return await self._own_event(UserKey(tenant, user.decode()), event_id)

    async def _own_event(self, key: UserKey, event_id: str) -> FeedbackEvent:
        row = await self.backend.script(lua.READ_EVENT, person_keys(key, "log", "index", "late"), [event_id])
        return own_event_of(key, row)

    async def withdraw_event(self, key: UserKey, event_id: str) -> FeedbackEvent:
        """Withdraw an event."""
        keys = person_keys(key, "state", "log", "index", "late", "pending")
        return own_event_of(key, await self.backend.script(lua.WITHDRAW, keys, [event_id]))

    async def attach_evidence(self, key: UserKey, event_id: str, evidence: Arrays) -> bool:
        """Attach evidence to a pending event."""
        keys = person_keys(key, "state", "index", "late", "pending")
        arguments: list[Argument] = [event_id, codec.dump_arrays(frozen_evidence(evidence))]
        (outcome,) = await self.backend.script(lua.ATTACH, keys, arguments)
        if outcome < 0:
            raise NotFound("this person has no feedback with this id")
        return bool(outcome)

    async def get_state(self, key: UserKey) -> UserState:
        """Read a person's state in one round trip."""
        state, pending = person_keys(key, "state", "pending")
        look = ["HMGET", state, *STATE_FIELDS, *POSTERIOR_FIELDS]
        row, num_pending = await self.backend.call_all([look, ["HLEN", pending]])
        return state_of(key, row, num_pending)

    async def put_posterior(self, key: UserKey, posterior: StoredPosterior, *, expected_version: int) -> int:
        """Compare and set the posterior."""
        position = posterior.position
        arguments: list[Argument] = [expected_version, position.epoch, secrets.token_hex(8)]
        arguments += [codec.dump_arrays(posterior.arrays), posterior.population, position.seq, position.revision]
        arguments.append(repr(posterior.updated_at))
        outcome = await self.backend.script(lua.PUT_POSTERIOR, person_keys(key, "state"), arguments)
        version = settled_version(outcome, expected_version)
        if position.epoch == "":
            await self._register(key, [])
        return version

    async def put_profile(self, key: UserKey, profile: Profile, *, expected_version: int) -> int:
        """Compare and set the profile."""
        arguments: list[Argument] = [expected_version, secrets.token_hex(8), repr(profile.created_at)]
        arguments.append(codec.profile_body(profile))
        outcome = await self.backend.script(lua.PUT_PROFILE, person_keys(key, "state"), arguments)
        version = settled_version(outcome, expected_version)
        await self._register(key, [])
        return version

    async def announce_completion(self, record: CompletionRecord) -> None:
        """Announce a completion."""
        await self._write_completion(record, keep="1")

    async def put_completion(self, record: CompletionRecord) -> list[FeedbackEvent]:
        """Remember a completion."""
        await self._write_completion(record, keep="0")
        return [event for event in await self.list_pending(record.key) if record.id in event.completion_ids]

    async def _write_completion(self, record: CompletionRecord, *, keep: str) -> None:
        (owned,) = person_keys(record.key, "completions")
        # Durations, not dates: the caller's clock need not be the server's.
        live_ms = max(1, round(1000 * (record.expires_at - record.created_at)))
        gone_ms = live_ms + round(1000 * TOMBSTONE_S)
        index: list[Argument] = [record.id, repr(record.expires_at + TOMBSTONE_S), repr(record.created_at), gone_ms]
        await self.backend.script(lua.INDEX_COMPLETION, [owned], index)
        data: list[Argument] = [keep, codec.completion_body(record), codec.completion_features(record) or b""]
        data += [live_ms, gone_ms, repr(record.expires_at)]
        keys = completion_keys(record.key.tenant, record.id)
        await self.backend.script(lua.PUT_COMPLETION, keys, data)
        # Indexed first, checked last: if the person was deleted in between, nothing of the answer stays.
        if await self.backend.call("ZSCORE", owned, record.id) is None:
            await self._forget_pointers(record.key.tenant, [], [record.id])

    async def get_completion(self, tenant: str, completion_id: str, *, now: float) -> CompletionRecord:
        """Read a completion."""
        check_tenant(tenant)
        keys = completion_keys(tenant, completion_id)
        body, features, expires = await self.backend.script(lua.READ_COMPLETION, keys, [])
        if not expires or float(expires) + TOMBSTONE_S <= now:
            raise NotFound("no completion with this id was served here")
        if not body or float(expires) <= now:
            raise Expired("the completion's features are no longer kept; send the texts inline instead")
        return codec.decode_completion(tenant, body, features or None)

    async def list_completions(self, key: UserKey, *, now: float) -> list[CompletionRecord]:
        """Read a person's completions."""
        _, ids = await self.backend.script(lua.OWNED, person_keys(key, "index", "completions"), [])
        found: list[CompletionRecord] = []
        for completion_id in ids:
            try:
                record = await self.get_completion(key.tenant, completion_id.decode(), now=now)
            except (NotFound, Expired):
                continue
            found += [record] if record.key == key else []
        return sorted(found, key=lambda record: (record.expires_at, record.id))

    async def delete_user(self, key: UserKey) -> DeletionReceipt:
        """Erase a person: what points at the data first, so that a crash half-way leaves the rest to a second call."""
        events, completions = await self.backend.script(lua.OWNED, person_keys(key, "index", "completions"), [])
        await self._forget_pointers(key.tenant, texts_of(events), texts_of(completions))
        await self.backend.call("ZREM", people_registry(key.tenant), key.user)
        keys = person_keys(key, "state", "log", "index", "late", "pending", "completions")
        num_events, posteriors, profiles, events, late = await self.backend.script(lua.DROP, keys, [])
        await self._forget_pointers(key.tenant, texts_of(events), texts_of(late))
        return DeletionReceipt(key, num_events, len({*completions, *late}), posteriors, profiles)

    async def _forget_pointers(self, tenant: str, event_ids: Sequence[str], completion_ids: Sequence[str]) -> None:
        commands: list[list[Argument]] = [["DEL", event_pointer(tenant, event_id)] for event_id in event_ids]
        commands += [["DEL", *completion_keys(tenant, completion_id)] for completion_id in completion_ids]
        for start in range(0, len(commands), PAGE_EVENTS):
            await self.backend.call_all(commands[start : start + PAGE_EVENTS])

    async def list_tenants(self) -> AsyncIterator[str]:
        """Yield tenants."""
        for tenant in sorted(name.decode() for name in await self.backend.call("SMEMBERS", TENANTS)):
            if await self.backend.call("ZCARD", people_registry(tenant)):
                yield tenant

    async def iter_users(self, tenant: str) -> AsyncIterator[UserKey]:
        """Yield people page by page."""
        check_tenant(tenant)
        async for key in self._users_after(tenant, ""):
            yield key

    async def _users_after(self, tenant: str, user: str) -> AsyncIterator[UserKey]:
        async for page in self._state_pages(tenant, user, ("epoch",)):
            for key, (epoch,) in page:
                if epoch is not None:
                    yield key

    async def _state_pages(
        self, tenant: str, after: str, fields: Sequence[str]
    ) -> AsyncIterator[list[tuple[UserKey, list[Any]]]]:
        start: bytes = b"(" + after.encode() if after else b"-"
        registry = people_registry(tenant)
        while users := await self.backend.call("ZRANGEBYLEX", registry, start, "+", "LIMIT", 0, PAGE_USERS):
            keys = [UserKey(tenant, user.decode()) for user in users]
            yield list(
                zip(
                    keys,
                    await self.backend.call_all([["HMGET", *person_keys(key, "state"), *fields] for key in keys]),
                    strict=True,
                )
            )
            start = b"(" + users[-1]

    async def iter_posteriors(self, tenant: str) -> AsyncIterator[tuple[UserKey, StoredPosterior]]:
        """Yield posteriors page by page."""
        check_tenant(tenant)
        async for page in self._state_pages(tenant, "", ("epoch", *POSTERIOR_FIELDS)):
            for key, row in page:
                try:
                    posterior = posterior_of(text_of(row[0]), row[1:])
                except CorruptRecord:
                    continue  # one bad record must not stop a scan; `store check` names it
                if posterior is not None:
                    yield key, posterior

    async def health(self) -> StoreHealth:
        """Ask for the schema and, where the ACL allows it, for the durability settings."""
        try:
            version = int(await self.backend.call("GET", SCHEMA) or 0)
        except StoreUnavailable as error:
            return StoreHealth("redis", is_available=False, durability="unknown", schema_version=0, detail=str(error))
        return StoreHealth("redis", is_available=True, durability=await self._durability(), schema_version=version)

    async def _durability(self) -> str:
        try:
            servers = await self.backend.settings("append*")
        except StoreUnavailable:
            return "unknown"
        found = {server["appendfsync"] if server["appendonly"] == "yes" else "none" for server in servers}
        return next(level for level in ("none", "no", "everysec", "always") if level in found)

    async def close(self) -> None:
        """Close the connections."""
        await self.backend.close()
