"""One thread that writes: what is asked at about the same time is committed together.

A commit waits for the disk; 200 callers that each waited for their own would wait 200 times. Here all that has come in
while the last commit ran makes the next transaction, each caller's part under a savepoint of its own, so that one that
fails takes nobody with it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gridcloud.errors import GridcloudError
from gridcloud.store.database import database_error, lock_writes

__all__ = ["Writer"]

Result = TypeVar("Result")

BATCH = 500


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """The writing thread of one engine. ``committed`` is called in the caller's loop with each batch's results,
    before the callers wake."""

    def __init__(self, engine: Engine, committed: Callable[[list[Any]], None]) -> None:
        self._engine = engine
        self._committed = committed
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gridcloud-store-writer", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[Connection], Result]) -> Result:
        """Run ``work`` in a transaction and return its result when that is on disk.

        It may be run twice, the first time undone. What it raises undoes its part only. When the caller is cancelled,
        the work may be done all the same.
        """
        if self._closed:
            raise GridcloudError("The store is closed.")
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self._queue.put(job)
        result: Result = await job.future
        return result

    def close(self) -> None:
        """Write what is queued, then end the thread. Blocks; may be called twice."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            batch: list[_Job] = []
            job = self._queue.get()
            while True:
                if job is None:
                    ending = True
                else:
                    batch.append(job)
                if len(batch) >= BATCH:
                    break
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._write(batch)
                self._answer(batch)

    def _write(self, batch: Sequence[_Job]) -> None:
        try:
            # Most batches hold nothing that fails: only after a failure is each job kept apart from the others, in a
            # savepoint of its own, which takes as long as the job.
            if not self._commit(batch, self._work):
                self._commit(batch, self._perform)
        except Exception as error:  # the whole transaction is lost: everybody in it hears why
            cause = database_error(error, self._engine.url)
            cause.__cause__ = error
            for job in batch:
                job.error = cause

    def _commit(self, batch: Sequence[_Job], perform: Callable[[_Job, Connection], bool]) -> bool:
        """Do all jobs in one transaction; return False, everything undone, when one of them says so."""
        with self._engine.connect().execution_options(writes=True) as connection:
            transaction = connection.begin()
            try:
                lock_writes(connection)
                done = all(perform(job, connection) for job in batch)
            except BaseException:
                transaction.rollback()
                raise
            if done:
                transaction.commit()
            else:
                transaction.rollback()
            return done

    @staticmethod
    def _work(job: _Job, connection: Connection) -> bool:
        try:
            job.result = job.work(connection)
        except Exception:  # told when it is done again, alone
            return False
        return True

    def _perform(self, job: _Job, connection: Connection) -> bool:
        part = connection.begin_nested()
        try:
            job.result = job.work(connection)
        except Exception as error:
            job.error = error
            if isinstance(error, SQLAlchemyError):
                job.error = database_error(error, self._engine.url)
                job.error.__cause__ = error
            part.rollback()  # raises when the database has already given up the transaction (a full disk)
        else:
            part.commit()
        return True

    def _answer(self, batch: Sequence[_Job]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in batch:
            loops.setdefault(job.loop, []).append(job)
        for loop, jobs in loops.items():
            try:
                loop.call_soon_threadsafe(self._settle, jobs)
            except RuntimeError:  # the loop is closed: nobody waits there any more
                continue

    def _settle(self, jobs: Sequence[_Job]) -> None:
        self._committed([job.result for job in jobs if job.error is None])
        for job in jobs:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
