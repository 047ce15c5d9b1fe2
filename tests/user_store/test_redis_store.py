"""What only the Redis store promises: its keys, its addresses, its behaviour when Redis goes away."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.user_store.redis_server import RedisServer
from tests.user_store.samples import ANN, NOW, completion, event, posterior
from user_store.errors import CorruptRecord, SchemaMismatch, StoreUnavailable
from user_store.open import check_url, migrate_store, open_store, sqlite_path
from user_store.redis_client import RedisOptions, address_of, open_backend
from user_store.redis_records import person_keys, text_of
from user_store.redis_store import RedisStore
from user_store.types import UserKey

pytestmark = pytest.mark.redis


@pytest.fixture
def own_server(redis_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server this test may kill and configure."""
    server = RedisServer(redis_binary, tmp_path)
    yield server
    server.stop()


async def keys_of(server: RedisServer) -> set[str]:
    client = Redis.from_url(server.url)
    found = {text_of(key) for key in await client.keys("*")}
    await client.aclose()
    return found


async def test_deletion_leaves_no_key_of_the_person(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    store = await open_store(redis_server.url)
    await store.append_event(event("e1", completion_ids=("c1",), is_pending=True, idempotency_key="k"))
    await store.put_completion(completion("c1"))
    await store.attach_evidence(ANN, "e1", {})
    await store.delete_user(ANN)
    await store.close()
    assert await keys_of(redis_server) == {"palate:schema", "palate:tenants"}


async def test_every_key_of_a_completion_expires(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    store = await open_store(redis_server.url)
    await store.put_completion(completion("c1", expires_at=NOW + 100))
    await store.close()
    client = Redis.from_url(redis_server.url)
    lives = {text_of(key).rpartition(":")[2]: await client.pttl(key) for key in await client.keys("palate:{*")}
    await client.aclose()
    assert 0 < lives.pop("data") <= 100_000
    month_ms = (30 * 86_400 + 100) * 1000
    assert set(lives) == {"gone", "completions"}
    assert all(month_ms - 600_000 < life <= month_ms for life in lives.values())


async def test_an_answer_stored_during_a_deletion_does_not_stay(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    store = await open_store(redis_server.url)
    assert isinstance(store, RedisStore)
    for number in range(30):
        record = completion(f"c{number}")
        await asyncio.gather(store.put_completion(record), store.delete_user(ANN), store.append_event(event("e1")))
    await store.delete_user(ANN)
    await store.close()
    assert {key for key in await keys_of(redis_server) if "{" in key} == set()


async def test_what_a_racing_append_registers_after_a_deletion_is_taken_back(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    store = await open_store(redis_server.url)
    assert isinstance(store, RedisStore)
    await store.append_event(event("e1"))
    await store.delete_user(ANN)
    await store._register(ANN, ["e1"])  # as the append would, had the deletion come between its two steps
    assert await keys_of(redis_server) == {"palate:schema", "palate:tenants"}
    await store.append_event(event("e2"))
    await store._register(ANN, ["e1"])  # here the person has come back since
    assert [key async for key in store.iter_users("acme")] == [ANN]
    await store.close()


async def test_a_newer_layout_is_refused_and_this_one_needs_no_migration(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    assert await migrate_store(redis_server.url) == (1, 1)
    redis_server.command("SET", "palate:schema", "2")
    with pytest.raises(SchemaMismatch, match="newer palate"):
        await open_store(redis_server.url)
    with pytest.raises(SchemaMismatch, match="newer palate"):
        await migrate_store(redis_server.url)
    redis_server.command("SET", "palate:schema", "0")
    with pytest.raises(SchemaMismatch, match="palate store migrate"):
        await open_store(redis_server.url)
    assert await migrate_store(redis_server.url) == (0, 1)
    await (await open_store(redis_server.url)).close()


async def test_an_unreadable_posterior_does_not_stop_a_scan(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    store = await open_store(redis_server.url)
    for user in ("ann", "bob"):
        await store.put_posterior(UserKey("acme", user), posterior(), expected_version=0)
    redis_server.command("HSET", person_keys(ANN, "state")[0], "post", "damaged")
    assert [key.user async for key, _ in store.iter_posteriors("acme")] == ["bob"]
    with pytest.raises(CorruptRecord):
        await store.get_state(ANN)
    await store.close()


async def test_redis_gone_is_unavailable_at_once_and_back_again(own_server: RedisServer) -> None:
    own_server.start()
    store = await open_store(own_server.url, RedisOptions(timeout_s=60.0))
    await store.append_event(event("e1"))
    own_server.kill()
    started = time.monotonic()
    for call in (store.get_state(ANN), store.append_event(event("e2")), store.put_completion(completion("c1"))):
        with pytest.raises(StoreUnavailable, match="check that it runs"):
            await call
    health = await store.health()
    assert (health.is_available, health.durability) == (False, "unknown")
    assert time.monotonic() - started < 60.0  # none of the four waited for its time to pass
    own_server.start()
    await store.append_event(event("e2"))
    await store.close()
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await open_store(own_server.url)


async def test_a_restart_forgets_scripts_and_nothing_is_noticed(own_server: RedisServer) -> None:
    own_server.settings = {"appendonly": "yes", "appendfsync": "always"}
    own_server.start()
    store = await open_store(own_server.url)
    assert (await store.health()).durability == "always"
    await store.append_event(event("e1"))
    own_server.kill()
    own_server.start()
    assert (await store.append_event(event("e1"))).is_duplicate
    await store.close()


async def test_more_callers_than_connections_wait_their_turn(redis_server: RedisServer) -> None:
    redis_server.command("FLUSHALL")
    store = await open_store(redis_server.url, RedisOptions(max_connections=2))
    await asyncio.gather(*(store.append_event(event(f"e{number}")) for number in range(100)))
    assert len(await store.read_log(ANN)) == 100
    await store.close()


async def test_acl_users_come_from_the_url_or_the_options(own_server: RedisServer) -> None:
    own_server.start()
    own_server.command("ACL", "SETUSER", "palate", "on", ">s3cr:et", "~palate:*", "+@all", "-@dangerous")
    own_server.command("ACL", "SETUSER", "default", "off")
    host = f"127.0.0.1:{own_server.port}"
    for url, options in (
        (f"redis://palate:s3cr%3Aet@{host}/0", RedisOptions()),
        (f"redis://{host}/0", RedisOptions(username="palate", password="s3cr:et")),
    ):
        store = await open_store(url, options)
        await store.append_event(event("e1"))
        await store.put_posterior(UserKey("acme", "new"), posterior(), expected_version=0)
        await store.delete_user(UserKey("acme", "new"))
        assert (await store.health()).durability == "unknown"  # CONFIG is not among this user's rights
        await store.close()
    with pytest.raises(StoreUnavailable) as caught:
        await open_store(f"redis://palate:wr0ng@{host}/0")
    assert "wr0ng" not in str(caught.value)


@pytest.fixture
def sentinel_port(own_server: RedisServer, tmp_path: Path) -> Iterator[int]:
    """A sentinel that watches the test's own server as `mymaster`."""
    own_server.start()
    port = free_port()
    settings = tmp_path / "sentinel.conf"
    settings.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {own_server.port} 1\n")
    with (tmp_path / "sentinel.log").open("wb") as log:
        sentinel = subprocess.Popen([own_server.binary, str(settings), "--sentinel"], stdout=log, stderr=log)
    yield port
    sentinel.kill()
    sentinel.wait()


async def test_sentinel_names_the_master(sentinel_port: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                store = await open_store(f"redis+sentinel://127.0.0.1:{sentinel_port},127.0.0.1:1/mymaster/0")
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    await store.append_event(event("e1"))
    assert len(await store.read_log(ANN)) == 1
    await store.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate, its key beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    key, path = tmp_path / "key.pem", tmp_path / "cert.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    command = [openssl, *request.split(), "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


async def test_tls_is_checked_against_the_given_authority(own_server: RedisServer, certificate: Path) -> None:
    key = certificate.with_name("key.pem")
    port = free_port()
    own_server.settings = {"tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key)}
    own_server.settings |= {"tls-ca-cert-file": str(certificate), "tls-auth-clients": "no"}
    own_server.start()
    store = await open_store(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}")
    await store.append_event(event("e1"))
    await store.close()
    with pytest.raises(StoreUnavailable, match="certificate"):
        await open_store(f"rediss://127.0.0.1:{port}/0")


def test_credentials_never_reach_a_message() -> None:
    assert address_of("redis://user:secret@host:1/0?password=x") == "redis://host:1/0"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://host",
        "redis+cluster://",
        "redis+cluster://host:port",
        "redis+sentinel://host:1",
        "redis+sentinel://host:1/name/x",
        "sqlite:",
        "sqlite://h",
    ],
)
def test_unusable_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must"):
        open_backend(url, RedisOptions())
    if "+" not in url:
        with pytest.raises(ValueError, match=r"must"):
            check_url(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/palate.db", "/var/lib/palate.db"),
        ("sqlite:////var/lib/palate.db", "/var/lib/palate.db"),
        ("sqlite:data/palate.db", "data/palate.db"),
        ("sqlite:///with%20space.db", "/with space.db"),
    ],
)
def test_sqlite_urls_name_a_path(url: str, path: str) -> None:
    assert sqlite_path(url) == Path(path)
    check_url(url)
