"""What remembers people, opened together and kept in order: store, spool, latent index, and their background work.

A store that is away at the start is tried again until it answers; answers go on unpersonalized meanwhile. Knows no
HTTP and no Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from serve.artifacts.registry import signature, usable_artifact
from serve.background import guarded
from serve.config import Config, Secrets
from serve.delivery import Courier, deliver_forever
from serve.editions import Edition
from serve.errors import ConfigurationError
from serve.feedback import FeedbackDesk
from serve.home import Home
from serve.limits import Limiter, open_limiter
from serve.metrics import Metrics
from serve.people import People
from serve.publications import Editor, Publications
from serve.service import Service
from serve.spooling import SpoolFolder
from serve.timed_store import timed
from user_store.errors import SchemaMismatch, StoreError, StoreUnavailable
from user_store.open import open_store
from user_store.redis_client import RedisOptions, address_of
from user_store.store import UserStore

logger = logging.getLogger("palate.memory")

DAMAGED = "damaged"  # the version of an artifact that cannot be used
RETRY_S = 1.0
CANCEL_AGAIN_S = 0.5
INDEX_RETRY_S = 10.0  # after a store that went away while everybody was read
DELIVERY_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Which store, and with which credentials."""

    url: str
    options: RedisOptions

    @classmethod
    def of(cls, config: Config, secrets: Secrets, home: Home) -> StoreAddress:
        """Take the configuration's URL, else the environment's, else the file under PALATE_HOME."""
        secret = secrets.store_url.get_secret_value() if secrets.store_url else None
        password = secrets.store_password.get_secret_value() if secrets.store_password else None
        options = RedisOptions(secrets.store_username, password, timeout_s=config.store.timeout_s)
        return cls(config.store.url or secret or home.store_url, options)

    @property
    def kind(self) -> str:
        """Name the backend: the URL's scheme."""
        return urlsplit(self.url).scheme

    async def open(self) -> UserStore:
        """Open it. Raises ConfigurationError for another layout or a wrong URL, StoreUnavailable while it is away."""
        try:
            return await open_store(self.url, self.options)
        except SchemaMismatch as error:
            raise ConfigurationError(f"The store {address_of(self.url)} cannot be used: {error}") from error
        except ValueError as error:
            raise ConfigurationError(f"The store's URL cannot be used: {error}") from error


class Memory:
    """People and the desk that takes their feedback, with what runs beside them."""

    def __init__(self, people: People, desk: FeedbackDesk, spool: SpoolFolder | None) -> None:
        self.people = people
        self.desk = desk
        self._spool = spool
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let something run until it ends or the memory is closed."""
        self._tasks.append(asyncio.get_running_loop().create_task(guarded(work)))

    async def close(self) -> None:
        """Stop what runs, finish what was accepted, and close everything."""
        pending = set(self._tasks)
        while pending:  # a cancellation can get lost in a call that ends at the same moment
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        await self.desk.settled()
        await self.people.close()
        if self._spool is not None:
            await self._spool.close()


def limiter_of(config: Config, secrets: Secrets, home: Home, metrics: Metrics) -> Limiter | None:
    """Make the limiter that counts where the store is; None where nothing is limited."""
    address = StoreAddress.of(config, secrets, home)
    return open_limiter(config.limits, address.url, address.options, metrics)


async def open_memory(
    config: Config, secrets: Secrets, home: Home, service: Service, metrics: Metrics
) -> Memory | None:
    """Open store, spool and index, and start what runs beside them; None without an artifact to read people with."""
    seen = await asyncio.to_thread(signature, home)
    artifact, is_damaged = await asyncio.to_thread(usable_artifact, config, home)
    if is_damaged:
        metrics.artifact.labels(DAMAGED).set(1)
    if artifact is None:
        return None
    address = StoreAddress.of(config, secrets, home)
    spool = await asyncio.to_thread(SpoolFolder, home.spool) if config.store.spool else None
    ttl_s, keeps_texts = config.feedback.completion_ttl_s, config.feedback.keep_texts
    store_name = hashlib.sha256(address_of(address.url).encode()).hexdigest()[:12]
    editor = Editor(config.users.index, home.latents, store_name)
    edition = await asyncio.to_thread(editor.edit, artifact)
    people = People(None, edition, completion_ttl_s=ttl_s, keeps_texts=keeps_texts)
    desk = FeedbackDesk(people, service, metrics, keep_texts=keeps_texts, spool=spool)
    memory = Memory(people, desk, spool)
    publications = Publications(people, editor, config, home, metrics, seen)
    await publications.attempt()
    await asyncio.to_thread(editor.forget_others, list(people.in_service.live()))
    metrics.store_up.labels(address.kind).set(0)
    with contextlib.suppress(StoreUnavailable):
        people.attach(timed(await address.open(), metrics, address.kind))
    memory.run(lambda: _keep_up(people, address, config.users.index_refresh_s, publications.has_changed, metrics))
    if config.personalization.artifact is None:
        memory.run(publications.follow)
    if spool is not None:
        courier = Courier(people, spool, metrics)
        memory.run(lambda: deliver_forever(courier, DELIVERY_PERIOD_S))
    return memory


async def _keep_up(
    people: People, address: StoreAddress, refresh_s: float, has_changed: asyncio.Event, metrics: Metrics
) -> None:
    """Open the store when it is there, then build the indexes again and again, and after every publication."""
    while not people.is_open:
        logger.warning("the store %s does not answer; answers are not personalized", address_of(address.url))
        await asyncio.sleep(RETRY_S)
        with contextlib.suppress(StoreUnavailable):
            people.attach(timed(await address.open(), metrics, address.kind))
    for edition in people.in_service.live():
        if edition.index is not None and edition.snapshot is not None:
            await edition.index.load(edition.snapshot)
    while any(edition.index is not None for edition in people.in_service.live()):
        has_changed.clear()
        begin, wait_s = time.perf_counter(), refresh_s
        try:
            sizes = [await _build(people, edition) for edition in people.in_service.live()]
            metrics.index_people.set(sum(sizes))
            metrics.index_build_seconds.observe(time.perf_counter() - begin)
        except StoreError as error:
            wait_s = min(INDEX_RETRY_S, refresh_s)
            logger.warning("the latent index is built later: %s", type(error).__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(has_changed.wait(), wait_s)


async def _build(people: People, edition: Edition) -> int:
    index, snapshot = edition.index, edition.snapshot
    if index is None or snapshot is None:
        return 0
    num_people = await index.build(people.store, edition.preferences.latent)
    try:
        await index.save(snapshot)
    except OSError as error:
        logger.warning("the latent index could not be saved: %s", error)
    return num_people
