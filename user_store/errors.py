"""What can go wrong in a store, as one tree.

    StoreError
    ├── StoreUnavailable     the backend does not answer; try again later
    ├── Conflict             somebody else wrote first; read again and retry
    ├── NotFound             never known, or deleted
    ├── Expired              was known, and its time is over
    ├── SchemaMismatch       the stored layout is older or newer than this program
    └── CorruptRecord        a stored record cannot be read back

Knows nothing about HTTP; the edge maps these to status codes. Invalid input raises ValueError in `types` instead.
"""


class StoreError(Exception):
    """Anything a store reports."""


class StoreUnavailable(StoreError):  # noqa: N818
    """The backend does not answer; `retry_after_s` is a hint for the client."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Conflict(StoreError):  # noqa: N818
    """A compare-and-set found another version; `current_version` is the stored one."""

    def __init__(self, message: str, *, current_version: int) -> None:
        super().__init__(message)
        self.current_version = current_version


class NotFound(StoreError):  # noqa: N818
    """No such event, completion or person within the tenant."""


class Expired(StoreError):  # noqa: N818
    """The completion was served here, but its features are no longer kept."""


class SchemaMismatch(StoreError):  # noqa: N818
    """The stored layout has another version than this program writes."""


class CorruptRecord(StoreError):  # noqa: N818
    """A stored record cannot be decoded; the message names it, never its content."""
