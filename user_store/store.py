"""The contract that every store keeps, whatever is behind it.

All calls are asynchronous and never block the event loop. Every call may raise StoreUnavailable. Nothing here reads a
clock: callers pass times. Everything is scoped by tenant; no call sees across. The suite in
`tests/user_store/test_contract.py` holds every implementation to it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

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
)
from user_store.validation import Arrays

TOMBSTONE_S = 30 * 86_400.0  # how long an expired completion is still told apart from an unknown one


class UserStore(Protocol):
    """Profiles, events, posteriors and completions of people, per tenant."""

    async def append_event(self, event: FeedbackEvent) -> AppendReceipt:
        """Add one event to its person's log; on disk before this returns.

        The same id or the same idempotency key again is a duplicate: nothing is written, the first id comes back. So
        after StoreUnavailable, when nobody knows whether it was written, send the *same* event again. A pending event
        may race with its completion: catch up after the append, which looks for the completion (`folding.catch_up`).
        """
        ...

    async def append_events(self, events: Sequence[FeedbackEvent]) -> list[AppendReceipt]:
        """Add events of one person in order, in one round trip; each as `append_event` does."""
        ...

    async def list_events(self, tenant: str, query: EventFilter) -> EventPage:
        """List a tenant's events, or one person's. NotFound when `after` is unknown.

        Without a user, people come in the order of their ids, and a rare filter costs a scan of the tenant.
        """
        ...

    async def read_log(self, key: UserKey, *, after_seq: int = 0) -> list[FeedbackEvent]:
        """Read one person's whole log after a point, withdrawn events included, in order of `seq`."""
        ...

    async def list_pending(self, key: UserKey) -> list[FeedbackEvent]:
        """Read one person's events that wait for their completions, in order of `seq`."""
        ...

    async def find_event(self, tenant: str, event_id: str) -> FeedbackEvent:
        """Read one event by id alone; NotFound outside the tenant."""
        ...

    async def withdraw_event(self, key: UserKey, event_id: str) -> FeedbackEvent:
        """Mark an event as withdrawn; a second time changes nothing. NotFound if the person has no such event."""
        ...

    async def attach_evidence(self, key: UserKey, event_id: str, evidence: Arrays) -> bool:
        """Give a pending event its evidence; False if it already has some. NotFound as for `withdraw_event`.

        Empty evidence ends the waiting of an event that can never count.
        """
        ...

    async def get_state(self, key: UserKey) -> UserState:
        """Read all of `UserState` in one round trip; unknown people have an empty state."""
        ...

    async def put_posterior(self, key: UserKey, posterior: StoredPosterior, *, expected_version: int) -> int:
        """Replace the posterior if its version is still the expected one (0: none yet); return the new version.

        Conflict if it is not, or if `posterior.position.epoch` is no longer the person's: they were deleted meanwhile.
        """
        ...

    async def put_profile(self, key: UserKey, profile: Profile, *, expected_version: int) -> int:
        """Replace the profile if its version is still the expected one; return the new version. Conflict if not."""
        ...

    async def announce_completion(self, record: CompletionRecord) -> None:
        """Say whose answer is being made, before its first byte leaves; an already stored one stays as it is."""
        ...

    async def put_completion(self, record: CompletionRecord) -> list[FeedbackEvent]:
        """Remember an answer until `expires_at`; return the events that were waiting for it."""
        ...

    async def get_completion(self, tenant: str, completion_id: str, *, now: float) -> CompletionRecord:
        """Read an answer. Expired if it was once here, NotFound if never (or long ago, or the person was deleted)."""
        ...

    async def list_completions(self, key: UserKey, *, now: float) -> list[CompletionRecord]:
        """Read a person's unexpired completions, for their export."""
        ...

    async def delete_user(self, key: UserKey) -> DeletionReceipt:
        """Erase everything about a person; what they send later starts anew."""
        ...

    def list_tenants(self) -> AsyncIterator[str]:
        """Yield tenants that ever had people, in order."""
        ...

    def iter_users(self, tenant: str) -> AsyncIterator[UserKey]:
        """Yield a tenant's known people in the order of their ids; a scan, not a snapshot."""
        ...

    def iter_posteriors(self, tenant: str) -> AsyncIterator[tuple[UserKey, StoredPosterior]]:
        """Yield a tenant's stored posteriors, page by page, to build an index from."""
        ...

    async def health(self) -> StoreHealth:
        """Probe the backend; never raises StoreUnavailable."""
        ...

    async def close(self) -> None:
        """Finish what was accepted and let go of the backend."""
        ...
