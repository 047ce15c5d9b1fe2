"""The stores under test: SQLite, one Redis server, and a Redis cluster of one node, which enforces hash slots."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.patience import wait_until
from tests.user_store.redis_server import INSTALL, RedisServer, find_binary
from user_store.open import open_store
from user_store.redis_client import RedisOptions
from user_store.store import UserStore


@pytest.fixture(scope="session")
def redis_binary() -> str:
    binary = find_binary()
    if binary is None:
        pytest.skip(f"no redis-server here; install it with: {' '.join(INSTALL)}")
    return binary


@pytest.fixture(scope="session")
def redis_server(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(redis_binary, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_cluster(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("cluster")
    server = RedisServer(redis_binary, folder, {"cluster-enabled": "yes", "cluster-announce-ip": "127.0.0.1"})
    server.start()
    server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    wait_until(lambda: "cluster_state:ok" in server.command("CLUSTER", "INFO"))
    yield server
    server.stop()


BACKENDS = [
    "sqlite",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("cluster", marks=pytest.mark.redis),
]


@pytest.fixture(params=BACKENDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's URL."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/palate.db"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.command("FLUSHALL")
        return server.url
    cluster: RedisServer = request.getfixturevalue("redis_cluster")
    cluster.command("FLUSHALL")
    return f"redis+cluster://127.0.0.1:{cluster.port}"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[UserStore]:
    opened = await open_store(store_url, RedisOptions(timeout_s=60.0))  # a busy machine is no store that is away
    yield opened
    await opened.close()
