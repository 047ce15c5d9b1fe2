"""For any sequence of calls: both stores behave the same, and one tenant shows nothing of another."""

import asyncio
import itertools
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.user_store.redis_server import RedisServer
from tests.user_store.samples import NOW, announced, completion, event, features, posterior
from user_store import codec
from user_store.errors import StoreError
from user_store.open import open_store
from user_store.redis_client import RedisOptions
from user_store.store import UserStore
from user_store.transfer import export_lines, export_user
from user_store.types import EventFilter, FeedbackKind, LogPosition, Profile, UserKey

KEYS = st.builds(UserKey, st.sampled_from(["a", "b"]), st.sampled_from(["u", "v"]))
EVENT_IDS = st.sampled_from(["e1", "e2", "e3", "e4"])
COMPLETION_IDS = st.sampled_from(["c1", "c2"])
TIMES = st.sampled_from([NOW, NOW + 3600, NOW + 1e7])
KINDS = st.sampled_from([FeedbackKind.THUMB, FeedbackKind.RATING])
EVENTS = st.builds(
    event,
    EVENT_IDS,
    KEYS,
    kind=KINDS,
    created_at=TIMES,
    idempotency_key=st.sampled_from([None, "k1", "k2"]),
    subject=st.sampled_from([None, "s1"]),
    completion_ids=COMPLETION_IDS.map(lambda one: (one,)),
    is_pending=st.booleans(),
)
FILTERS = st.builds(
    EventFilter,
    user=st.sampled_from([None, "u", "v"]),
    kind=st.none() | KINDS,
    since=st.none() | TIMES,
    limit=st.integers(1, 4),
    after=st.none() | EVENT_IDS,
)
Call = Callable[[UserStore], Awaitable[Any]]


def view(value: Any) -> Any:
    """Reduce a result to what may not depend on the backend: everything but random epochs."""
    if isinstance(value, LogPosition):
        return bool(value.epoch), value.seq, value.revision
    if isinstance(value, list | tuple):
        return [view(item) for item in value]
    if hasattr(value, "dtype"):
        return codec.dump_arrays({"x": value})
    if isinstance(value, dict) or type(value).__name__ == "mappingproxy":
        return {name: view(item) for name, item in value.items()}
    if hasattr(value, "__slots__") and hasattr(value, "__dataclass_fields__"):
        return {name: view(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


async def outcome(store: UserStore, call: Call) -> Any:
    try:
        return view(await call(store))
    except (StoreError, ValueError) as error:
        return type(error).__name__, str(error)


async def users_of(store: UserStore, tenant: str) -> list[UserKey]:
    return [key async for key in store.iter_users(tenant)]


class Twins(RuleBasedStateMachine):
    """Sends every call to SQLite and to Redis, and compares what comes back."""

    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.stores: list[UserStore] = []
        self.now = NOW

    @initialize()
    def open(self) -> None:
        for url in (f"sqlite://{self.folder.name}/palate.db", self.redis_url):
            # A busy machine must not look like a difference between the stores.
            self.stores.append(self.runner.run(open_store(url, RedisOptions(timeout_s=60))))

    def teardown(self) -> None:
        for store in self.stores:
            self.runner.run(store.close())
        self.runner.close()
        self.folder.cleanup()

    def both(self, call: Call) -> None:
        one, other = (self.runner.run(outcome(store, call)) for store in self.stores)
        assert one == other

    @rule(one=EVENTS)
    def append(self, one: Any) -> None:
        self.both(lambda store: store.append_event(one))

    @rule(key=KEYS, event_id=EVENT_IDS)
    def withdraw(self, key: UserKey, event_id: str) -> None:
        self.both(lambda store: store.withdraw_event(key, event_id))

    @rule(key=KEYS, event_id=EVENT_IDS)
    def attach(self, key: UserKey, event_id: str) -> None:
        self.both(lambda store: store.attach_evidence(key, event_id, {"x": features(1, 2)}))

    @rule(key=KEYS, expected=st.integers(0, 3), seed=st.integers(0, 5))
    def put_posterior(self, key: UserKey, expected: int, seed: int) -> None:
        async def call(store: UserStore) -> int:
            position = (await store.get_state(key)).position
            return await store.put_posterior(key, posterior(seed, position), expected_version=expected)

        self.both(call)

    @rule(key=KEYS, expected=st.integers(0, 2), level=st.floats(-1, 1))
    def put_profile(self, key: UserKey, expected: int, level: float) -> None:
        profile = Profile(pins={"formal": level}, created_at=NOW)
        self.both(lambda store: store.put_profile(key, profile, expected_version=expected))

    # One completion id belongs to one person, as the server makes them.
    @rule(key=KEYS, completion_id=COMPLETION_IDS, life_s=st.sampled_from([100.0, 3600.0]))
    def complete(self, key: UserKey, completion_id: str, life_s: float) -> None:
        record = completion(f"{completion_id}-{key.user}", key, created_at=self.now, expires_at=self.now + life_s)
        self.both(lambda store: store.put_completion(record))

    @rule(key=KEYS, completion_id=COMPLETION_IDS)
    def announce(self, key: UserKey, completion_id: str) -> None:
        record = announced(f"{completion_id}-{key.user}", key, self.now)
        self.both(lambda store: store.announce_completion(record))

    @rule(key=KEYS)
    def delete(self, key: UserKey) -> None:
        async def call(store: UserStore) -> Any:
            receipt = await store.delete_user(key)
            # Tombstones go at the next write in one store and by themselves in the other; their number is no promise.
            return receipt.events, receipt.posteriors, receipt.profiles

        self.both(call)

    @rule(tenant=st.sampled_from(["a", "b"]), query=FILTERS)
    def list_page(self, tenant: str, query: EventFilter) -> None:
        self.both(lambda store: store.list_events(tenant, query))

    @rule(key=KEYS, event_id=EVENT_IDS, after=st.integers(0, 3))
    def read(self, key: UserKey, event_id: str, after: int) -> None:
        self.both(lambda store: store.read_log(key, after_seq=after))
        self.both(lambda store: store.get_state(key))
        self.both(lambda store: store.list_pending(key))
        self.both(lambda store: users_of(store, key.tenant))

    @rule(key=KEYS, completion_id=COMPLETION_IDS)
    def read_completion(self, key: UserKey, completion_id: str) -> None:
        self.both(lambda store: store.get_completion(key.tenant, f"{completion_id}-{key.user}", now=self.now))
        self.both(lambda store: store.list_completions(key, now=self.now))

    @rule(step_s=st.sampled_from([99.0, 100.0, 3600.0, 1e7]))
    def wait(self, step_s: float) -> None:
        self.now += step_s


@pytest.mark.redis
def test_both_stores_behave_the_same(redis_server: RedisServer) -> None:
    class Fresh(Twins):
        redis_url = redis_server.url

        @initialize()
        def flush(self) -> None:
            redis_server.command("FLUSHALL")

    run_state_machine_as_test(
        Fresh,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def calls_of(key: UserKey) -> st.SearchStrategy[Call]:
    """Every call a tenant can make, with ids that another tenant uses too."""
    events = EVENTS.map(lambda one: event(one.id, key, subject=one.subject, idempotency_key=one.idempotency_key))
    return st.one_of(
        events.map(lambda one: lambda store: store.append_event(one)),
        EVENT_IDS.map(lambda event_id: lambda store: store.withdraw_event(key, event_id)),
        EVENT_IDS.map(lambda event_id: lambda store: store.attach_evidence(key, event_id, {"x": features(1, 2)})),
        EVENT_IDS.map(lambda event_id: lambda store: store.find_event(key.tenant, event_id)),
        FILTERS.map(lambda query: lambda store: store.list_events(key.tenant, query)),
        COMPLETION_IDS.map(lambda one: lambda store: store.put_completion(completion(one, key))),
        COMPLETION_IDS.map(lambda one: lambda store: store.announce_completion(announced(one, key))),
        COMPLETION_IDS.map(lambda one: lambda store: store.get_completion(key.tenant, one, now=NOW)),
        st.just(lambda store: store.put_profile(key, Profile(), expected_version=0)),
        st.just(lambda store: store.put_posterior(key, posterior(), expected_version=0)),
        st.just(lambda store: store.get_state(key)),
        st.just(lambda store: store.read_log(key)),
        st.just(lambda store: store.list_completions(key, now=NOW)),
        st.just(lambda store: users_of(store, key.tenant)),
        st.just(lambda store: store.delete_user(key)),
    )


A_CALLS = st.lists(st.sampled_from([UserKey("a", "u"), UserKey("a", "v")]).flatmap(calls_of), max_size=25)
SECRET = "known-to-b-alone"


async def fill_b(store: UserStore) -> None:
    key = UserKey("b", "u")
    for event_id in ("e1", "e2"):
        await store.append_event(event(event_id, key, reason=SECRET, idempotency_key="k1", subject="s1"))
    await store.append_event(event("e3", key, reason=SECRET, completion_ids=("c1",), is_pending=True))
    await store.put_completion(completion("c2", key, payload={"secret": SECRET}))
    state = await store.get_state(key)
    await store.put_posterior(key, posterior(4, state.position), expected_version=0)


async def shown_to_b(store: UserStore) -> list[str]:
    lines = list(export_lines(await export_user(store, UserKey("b", "u"), now=NOW)))
    return [*lines, repr(await store.get_state(UserKey("b", "u"))), repr(await users_of(store, "b"))]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def test_a_tenant_neither_sees_nor_changes_another(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    numbers = itertools.count()

    async def scenario(calls: list[Call]) -> None:
        url = f"sqlite://{tmp_path}/{next(numbers)}.db"
        if kind == "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            server.command("FLUSHALL")
            url = server.url
        store = await open_store(url, RedisOptions(timeout_s=60))
        try:
            # What A is told must be the same whether or not B exists.
            alone = [await outcome(store, call) for call in calls]
            for user in ("u", "v"):
                await store.delete_user(UserKey("a", user))
            await fill_b(store)
            before = await shown_to_b(store)
            beside = [await outcome(store, call) for call in calls]
            assert alone == beside
            assert SECRET not in repr(beside)
            assert await shown_to_b(store) == before
        finally:
            await store.close()

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(A_CALLS)
    def check(calls: list[Call]) -> None:
        asyncio.run(scenario(calls))

    check()
