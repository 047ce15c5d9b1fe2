"""What all tests of the server share."""

from tests.user_store.conftest import redis_binary

__all__ = ["redis_binary"]
