"""A Redis server for the jobs' tests."""

from collections.abc import Iterator

import pytest

from tests.user_store.redis_server import INSTALL, RedisServer, find_binary


@pytest.fixture
def empty_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty server."""
    binary = find_binary()
    if binary is None:
        pytest.skip(f"no redis-server here; install it with: {' '.join(INSTALL)}")
    server = RedisServer(binary, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()
