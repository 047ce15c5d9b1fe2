"""From a URL to a Redis client, and from Redis' errors to ours.

    redis://[user:password@]host:port/db                       one server; rediss:// with TLS; unix:///path for a socket
    redis+sentinel://[user:password@]host:port,…/service/db    whatever master the sentinels name
    redis+cluster://[user:password@]host:port,…                a cluster, from any of its nodes

Query parameters ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname, sentinel_username and
sentinel_password are understood. Knows nothing about keys or records.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from user_store.errors import StoreUnavailable

SCHEMES = ("unix", *(f"redis{tls}{kind}" for tls in ("", "s") for kind in ("", "+sentinel", "+cluster")))
_SSL_TEXT = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
# A cluster that cannot be reached raises what is no RedisError.
_FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """What a URL should not or cannot say. Credentials in the URL win."""

    username: str | None = None
    password: str | None = None
    timeout_s: float = 2.0
    max_connections: int = 32


class RedisClient(Protocol):
    """What the single-server, sentinel and cluster clients have in common."""

    def execute_command(self, *args: Argument) -> Any:
        """Send one command."""
        ...

    def pipeline(self, transaction: bool = ...) -> Any:
        """Collect commands to send together."""
        ...

    def aclose(self) -> Any:
        """Close all connections."""
        ...


class RedisBackend:
    """A client with bounded concurrency, scripts by digest, and one kind of error."""

    def __init__(
        self, client: RedisClient, address: str, options: RedisOptions, sentinels: Sequence[RedisClient] = ()
    ) -> None:
        self.address = address
        self._client = client
        self._sentinels = sentinels
        # Waiting here is better than the pool's answer to one caller too many, which is an error.
        self._slots = asyncio.Semaphore(options.max_connections)

    async def call(self, *args: Argument) -> Any:
        """Send one command; StoreUnavailable if that fails."""
        async with self._slots:
            try:
                return await self._client.execute_command(*args)
            except _FAILURES as error:
                raise self._unavailable(error) from error

    async def call_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send several commands in one round trip per node; they may run in any order on a cluster."""
        async with self._slots:
            try:
                pipeline = self._client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                return list(await pipeline.execute())
            except _FAILURES as error:
                raise self._unavailable(error) from error

    async def call_in_order(self, *steps: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send steps of commands, each after the one before: at once to one server, step by step to a cluster."""
        if not isinstance(self._client, RedisCluster):
            return await self.call_all([command for step in steps for command in step])
        return [reply for step in steps for reply in await self.call_all(step)]

    async def script(self, source: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a Lua script, by digest when the server has it. All keys share one hash tag."""
        digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        async with self._slots:
            try:
                try:
                    return await self._client.execute_command("EVALSHA", digest, len(keys), *keys, *args)
                except NoScriptError:
                    return await self._client.execute_command("EVAL", source, len(keys), *keys, *args)
            except _FAILURES as error:
                raise self._unavailable(error) from error

    async def settings(self, pattern: str) -> list[dict[str, str]]:
        """Read the server's settings, of each primary in a cluster. StoreUnavailable if the ACL forbids it."""
        async with self._slots:
            try:
                if isinstance(self._client, RedisCluster):
                    primaries = RedisCluster.PRIMARIES
                    found = await self._client.execute_command("CONFIG GET", pattern, target_nodes=primaries)
                    # One node answers with its settings alone, several with a reply by node.
                    replies = list(found.values()) if all(isinstance(v, dict) for v in found.values()) else [found]
                else:
                    replies = [await self._client.execute_command("CONFIG GET", pattern)]
            except _FAILURES as error:
                raise self._unavailable(error) from error
        return [{_as_text(name): _as_text(value) for name, value in reply.items()} for reply in replies]

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._client, *self._sentinels):
            await client.aclose()

    def _unavailable(self, error: BaseException) -> StoreUnavailable:
        detail = str(error) or type(error).__name__
        return StoreUnavailable(f"Redis at {self.address} failed: {detail}; check that it runs and accepts writes")


def _as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def open_backend(url: str, options: RedisOptions) -> RedisBackend:
    """Build the client a URL asks for; connects on first use. ValueError for a URL that cannot be understood."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the scheme of a Redis URL must be one of {', '.join(SCHEMES)}, not {parts.scheme!r}")
    if parts.scheme.endswith("+sentinel"):
        return _sentinel_backend(url, options)
    if parts.scheme.endswith("+cluster"):
        return _cluster_backend(url, options)
    # Redis.from_url would make the pool before our limits apply; the URL's own values win over these.
    pool = ConnectionPool.from_url(
        url, max_connections=2 * options.max_connections, **_credentials(url, options), **_connection(options)
    )
    return RedisBackend(Redis.from_pool(pool), address_of(url), options)


def address_of(url: str) -> str:
    """Strip credentials and query from a URL, for messages and logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _connection(options: RedisOptions) -> dict[str, Any]:
    return {
        "socket_timeout": options.timeout_s,
        "socket_connect_timeout": options.timeout_s,
        # One immediate retry gets past connections that a restarted server closed; every call of ours may be repeated.
        "retry": Retry(NoBackoff(), 1),
        "decode_responses": False,
    }


def _credentials(url: str, options: RedisOptions) -> dict[str, Any]:
    user, _, password = urlsplit(url).netloc.rpartition("@")[0].partition(":")
    return {
        "username": unquote(user) or options.username,
        "password": unquote(password) or options.password,
    }


def _tls(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if not parts.scheme.startswith("rediss"):
        return {}
    query = dict(parse_qsl(parts.query))
    found: dict[str, Any] = {name: query[name] for name in _SSL_TEXT if name in query}
    if "ssl_check_hostname" in query:
        found["ssl_check_hostname"] = query["ssl_check_hostname"].lower() in {"1", "true", "yes"}
    return {"ssl": True, **found}


def _nodes(url: str, default_port: int) -> list[tuple[str, int]]:
    nodes = []
    for node in urlsplit(url).netloc.rpartition("@")[2].split(","):
        host, _, port = node.rpartition(":") if ":" in node.rpartition("]")[2] else (node, "", "")
        if not host or (port and not port.isdigit()):
            raise ValueError(f"{address_of(url)} must name its nodes as host:port,host:port")
        nodes.append((host.strip("[]"), int(port or default_port)))
    return nodes


def _sentinel_backend(url: str, options: RedisOptions) -> RedisBackend:
    service, _, database = urlsplit(url).path.strip("/").partition("/")
    if not service or (database and not database.isdigit()):
        raise ValueError(f"{address_of(url)} must end in /service or /service/db, as in …:26379/mymaster/0")
    query = dict(parse_qsl(urlsplit(url).query))
    own = {"username": query.get("sentinel_username"), "password": query.get("sentinel_password")}
    connection = {**_connection(options), **_tls(url)}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        _nodes(url, 26379), sentinel_kwargs={**connection, **own}, **connection
    )
    client: RedisClient = sentinel.master_for(
        service,
        db=int(database or 0),
        max_connections=2 * options.max_connections,
        **_credentials(url, options),
    )
    return RedisBackend(client, address_of(url), options, sentinel.sentinels)


def _cluster_backend(url: str, options: RedisOptions) -> RedisBackend:
    client = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in _nodes(url, 6379)],
        max_connections=2 * options.max_connections,
        **_credentials(url, options),
        **_connection(options),
        **_tls(url),
    )
    return RedisBackend(client, address_of(url), options)
