"""Threads that own one SQLite connection each, so that the event loop never waits for a disk.

The write lane commits what has queued up as one transaction (group commit): a hundred concurrent appends cost one
fsync. Read lanes see the last commit (WAL). Knows nothing about tables.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from user_store.errors import StoreUnavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], object]
MAX_BATCH = 256  # more would make the first caller wait long without saving fsyncs


@dataclass(frozen=True, slots=True)
class _Job:
    operation: Operation
    future: Future[Any]

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(_translate(error))

    def succeed(self, value: object) -> None:
        if not self.future.done():
            self.future.set_result(value)


def _translate(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error):
        return StoreUnavailable(f"the SQLite store failed: {error}; check the disk and that no process holds its lock")
    return error


class Lane:
    """A thread with a connection and a queue of operations; subclasses decide how operations become transactions."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._connect = connect
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation on the lane's thread. A cancelled caller's operation is still carried out."""
        if self._is_closed:
            raise StoreUnavailable("the SQLite store is closed; open it again")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # from here on a cancelled waiter cannot cancel the operation
        self._jobs.put(_Job(operation, future))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Finish what is queued, then close the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._jobs.get()) is not None:
            batch, is_last = self._collect(job)
            try:
                connection = connection or self._connect()
                self._execute(connection, batch)
            # Whatever it was, the callers are told and the lane lives on: the next batch may succeed.
            except BaseException as error:  # noqa: BLE001, RUF100
                for one in batch:
                    one.fail(error)
            if is_last:
                break
        if connection is not None:
            connection.close()

    def _collect(self, first: _Job) -> tuple[list[_Job], bool]:
        return [first], False

    def _execute(self, connection: sqlite3.Connection, batch: Sequence[_Job]) -> None:
        raise NotImplementedError


class ReadLane(Lane):
    """One consistent snapshot per operation."""

    def _execute(self, connection: sqlite3.Connection, batch: Sequence[_Job]) -> None:
        for job in batch:
            connection.execute("BEGIN")
            try:
                job.succeed(job.operation(connection))
            finally:
                connection.execute("ROLLBACK")


class WriteLane(Lane):
    """All that has queued up becomes one transaction; an operation that raises is undone alone."""

    def _collect(self, first: _Job) -> tuple[list[_Job], bool]:
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _execute(self, connection: sqlite3.Connection, batch: Sequence[_Job]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        done: list[tuple[_Job, object]] = []
        try:
            for job in batch:
                connection.execute("SAVEPOINT job")
                try:
                    done.append((job, job.operation(connection)))
                except sqlite3.Error:
                    raise  # the disk or the file: nobody's fault, and nobody's write is safe
                except Exception as error:
                    connection.execute("ROLLBACK TO job")
                    job.fail(error)
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        for job, value in done:  # only now is it on disk
            job.succeed(value)
