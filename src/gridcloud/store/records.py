"""The store: records changed by compare-and-set, each change in one transaction with its story."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gridcloud.clock import Clock
from gridcloud.errors import Conflict, GridcloudError, NotFound
from gridcloud.store import tables
from gridcloud.store.database import connect, database_error, migrate, parse_location
from gridcloud.store.model import Entry, Event, Record
from gridcloud.store.writer import Writer

__all__ = ["Store", "open_store"]

Result = TypeVar("Result")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PAGE = 1000
FOREIGN_POLL = 1.0
"""Seconds after which a watcher of a shared database looks for what other processes wrote."""


@dataclass(slots=True, eq=False)
class _Watcher:
    subject: str | None
    owner: str | None
    kind: str | None
    news: asyncio.Event


class Store:
    """Records and events of one installation. Use it from one event loop.

    Every method raises GridcloudError where the database fails: Unreachable when it does not answer, StorageFull when
    its disk is full. A write returns when it is on disk.
    """

    def __init__(self, engine: Engine, clock: Clock, installation: str, keeper: str = "") -> None:
        self._engine = engine
        self._clock = clock
        self._installation = installation
        self._watchers: set[_Watcher] = set()
        self._closed = False
        self._shared = engine.dialect.name != "sqlite"
        self._keeper = keeper if self._shared else ""
        self.timed: Callable[[str, float], None] = _forget
        """Told of each ``read`` and ``write`` how many seconds it took; a read in the thread that does it."""
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gridcloud-store-reader")
        self._writer = Writer(engine, self._announce)

    @property
    def installation(self) -> str:
        """The id of this installation, made when the store was: the owner tag of whatever is created."""
        return self._installation

    @property
    def shared(self) -> bool:
        """Whether other processes may write to it too: what was read may then be old."""
        return self._shared

    @property
    def keeper(self) -> str:
        """Who of those that share the database uses it here; empty where nobody else does."""
        return self._keeper

    async def insert(
        self, kind: str, id: str, owner: str, state: str, body: dict[str, Any], events: Iterable[Entry] = ()
    ) -> Record:
        """Keep a new record. Raises Conflict when there is one of this kind and id."""
        now = self._now()
        record = Record(kind, id, owner, state, body, 1, now, now)
        row = {**_columns(record), "kind": kind, "id": id, "created": _microseconds(now)}
        lines = _lines(record, events, now)

        def work(connection: Connection) -> tuple[Record, list[Event]]:
            try:
                connection.execute(insert(tables.records), row)
            except IntegrityError as error:
                raise Conflict(f"There is already {kind} {id}.") from error
            return record, _tell(connection, lines)

        return (await self._write(work))[0]

    async def update(
        self,
        record: Record,
        *,
        owner: str | None = None,
        state: str | None = None,
        body: dict[str, Any] | None = None,
        events: Iterable[Entry] = (),
    ) -> Record:
        """Change the record as it was read, and return it as it is now; owner, state or body stay when not given.
        The events belong to the new owner.

        Raises Conflict when somebody changed it since it was read, NotFound when it is gone.
        """
        now = self._now()
        changed = Record(
            record.kind,
            record.id,
            record.owner if owner is None else owner,
            record.state if state is None else state,
            record.body if body is None else body,
            record.version + 1,
            record.created,
            now,
        )
        values = _columns(changed)
        lines = _lines(changed, events, now)

        def work(connection: Connection) -> tuple[Record, list[Event]]:
            done = connection.execute(update(tables.records).where(*_exactly(record)).values(values))
            if done.rowcount != 1:
                raise _missed(connection, record)
            return changed, _tell(connection, lines)

        return (await self._write(work))[0]

    async def delete(self, record: Record, events: Iterable[Entry] = ()) -> None:
        """Remove the record as it was read; its events stay. Raises Conflict or NotFound as `update` does."""
        lines = _lines(record, events, self._now())

        def work(connection: Connection) -> tuple[None, list[Event]]:
            if connection.execute(delete(tables.records).where(*_exactly(record))).rowcount != 1:
                raise _missed(connection, record)
            return None, _tell(connection, lines)

        await self._write(work)

    async def get(self, kind: str, id: str) -> Record:
        """Return one record. Raises NotFound."""
        query = select(tables.records).where(tables.records.c.kind == kind, tables.records.c.id == id)
        rows = await self._read(lambda connection: connection.execute(query).all())
        if not rows:
            raise NotFound(f"There is no {kind} {id}.")
        return _record(rows[0])

    async def find(
        self,
        kind: str,
        *,
        owner: str | None = None,
        states: Collection[str] | None = None,
        limit: int | None = None,
        prefix: str = "",
    ) -> list[Record]:
        """Return the records of a kind, oldest first; of one owner, in some states, at most ``limit``; those whose ids
        begin with ``prefix``, which is plain ASCII."""
        table = tables.records.c
        query = (
            select(tables.records).where(table.kind == kind).order_by(table.created, table.id).limit(limit)
        )
        if owner is not None:
            query = query.where(table.owner == owner)
        if states is not None:
            query = query.where(table.state.in_([str(state) for state in states]))
        if prefix:
            query = query.where(table.id >= prefix, table.id < f"{prefix}\x7f")
        rows = await self._read(lambda connection: connection.execute(query).all())
        return [_record(row) for row in rows]

    async def scan(
        self, kind: str, pick: Callable[[Record], Result], *, states: Collection[str] | None = None
    ) -> list[Result]:
        """Return what ``pick`` makes of each record of a kind, oldest first; only that is kept of each. It is called
        in a thread."""
        table = tables.records.c
        query = select(tables.records).where(table.kind == kind).order_by(table.created, table.id)
        if states is not None:
            query = query.where(table.state.in_([str(state) for state in states]))

        def work(connection: Connection) -> list[Result]:
            rows = connection.execution_options(yield_per=PAGE).execute(query)
            return [pick(_record(row)) for row in rows]

        return await self._read(work)

    async def append(self, kind: str, subject: str, owner: str, events: Iterable[Entry]) -> list[Event]:
        """Write events that go with no change of a record; return them with their ``seq``."""
        now = self._now()
        lines = [_line(kind, subject, owner, entry, now) for entry in events]

        def work(connection: Connection) -> tuple[None, list[Event]]:
            return None, _tell(connection, lines)

        return (await self._write(work))[1]

    async def events(
        self,
        subject: str | None = None,
        kind: str | None = None,
        owner: str | None = None,
        after: int = 0,
        limit: int = PAGE,
    ) -> list[Event]:
        """Return events with ``seq`` > ``after``, in order, at most ``limit``."""
        table = tables.events.c
        query = select(tables.events).where(table.seq > after).order_by(table.seq).limit(limit)
        for column, wanted in ((table.subject, subject), (table.kind, kind), (table.owner, owner)):
            if wanted is not None:
                query = query.where(column == wanted)
        rows = await self._read(lambda connection: connection.execute(query).all())
        return [_event(row) for row in rows]

    async def last_seq(self) -> int:
        """Return the ``seq`` of the newest event, 0 when there is none: watch from here to see only what is new."""
        query = select(tables.events.c.seq).order_by(tables.events.c.seq.desc()).limit(1)
        return int(await self._read(lambda connection: connection.execute(query).scalar()) or 0)

    async def watch(
        self, subject: str | None = None, owner: str | None = None, after: int = 0, kind: str | None = None
    ) -> AsyncIterator[Event]:
        """Give the events with ``seq`` > ``after``, then each new one as it is committed; none is lost or repeated.

        Resume with the last ``seq`` seen. Ends when the store is closed.
        """
        watcher = _Watcher(subject, owner, kind, asyncio.Event())
        self._watchers.add(watcher)
        try:
            while not self._closed:
                watcher.news.clear()  # before the read: what is committed during it sets it again
                page = await self.events(subject, kind, owner, after)
                for event in page:
                    after = event.seq
                    yield event
                if page:
                    continue
                try:
                    async with asyncio.timeout(FOREIGN_POLL if self._shared else None):
                        await watcher.news.wait()
                except TimeoutError:
                    continue
        finally:
            self._watchers.discard(watcher)

    async def meta(self, key: str) -> str | None:
        """Return what is noted of the store under ``key``."""
        query = select(tables.meta.c.value).where(tables.meta.c.key == key)
        found = await self._read(lambda connection: connection.execute(query).scalar())
        return None if found is None else str(found)

    async def set_meta(self, key: str, value: str) -> None:
        """Note something of the store itself."""

        def work(connection: Connection) -> tuple[None, list[Event]]:
            connection.execute(delete(tables.meta).where(tables.meta.c.key == key))
            connection.execute(insert(tables.meta), {"key": key, "value": value})
            return None, []

        await self._write(work)

    async def close(self) -> None:
        """Write what is queued, end all watches, let go of the database. May be called twice."""
        self._closed = True
        for watcher in self._watchers:
            watcher.news.set()
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        self._engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _read(self, work: Callable[[Connection], Result]) -> Result:
        if self._closed:
            raise GridcloudError("The store is closed.")

        def read() -> Result:
            began = time.monotonic()
            try:
                with self._engine.connect() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                raise database_error(error, self._engine.url) from error
            finally:
                self.timed("read", time.monotonic() - began)

        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    async def _write(self, work: Callable[[Connection], Result]) -> Result:
        began = time.monotonic()
        try:
            return await self._writer.submit(work)
        finally:
            self.timed("write", time.monotonic() - began)

    def _announce(self, results: Sequence[tuple[Any, list[Event]]]) -> None:
        for _, events in results:
            for event in events:
                for watcher in self._watchers:
                    if (
                        watcher.subject in (None, event.subject)
                        and watcher.owner in (None, event.owner)
                        and watcher.kind in (None, event.kind)
                    ):
                        watcher.news.set()

    def _now(self) -> datetime:
        return self._clock.now()


async def open_store(location: str | os.PathLike[str], clock: Clock, keeper: str = "") -> Store:
    """Open, make or migrate the store in a SQLite file (a path) or a PostgreSQL database (a URL).

    ``keeper`` names whoever opens it among those that may share the database.
    Raises StoreTooNew when a newer gridcloud wrote it, InvalidSettings for a URL of another kind, GridcloudError when
    it cannot be opened.
    """
    return await asyncio.to_thread(_open, location, clock, keeper)


def _open(location: str | os.PathLike[str], clock: Clock, keeper: str) -> Store:
    url = parse_location(location)
    engine = connect(url)
    try:
        migrate(engine)
        installation = _installation(engine)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        engine.dispose()
        raise database_error(error, url) from error
    except BaseException:
        engine.dispose()
        raise
    return Store(engine, clock, installation, keeper)


def _installation(engine: Engine) -> str:
    query = select(tables.meta.c.value).where(tables.meta.c.key == "installation")
    with engine.connect() as connection:
        found = connection.execute(query).scalar()
    if found is None:
        try:
            with engine.connect().execution_options(writes=True) as connection, connection.begin():
                connection.execute(insert(tables.meta), {"key": "installation", "value": str(uuid.uuid4())})
        except IntegrityError:
            pass  # another process opened it first: its id holds
        with engine.connect() as connection:
            found = connection.execute(query).scalar_one()
    return str(found)


def _forget(_what: str, _seconds: float) -> None:
    """Nobody wants to know."""


def _columns(record: Record) -> dict[str, Any]:
    return {
        "owner": record.owner,
        "state": str(record.state),
        "body": _json(record.body),
        "version": record.version,
        "updated": _microseconds(record.updated),
    }


def _exactly(record: Record) -> tuple[Any, ...]:
    table = tables.records.c
    return table.kind == record.kind, table.id == record.id, table.version == record.version


def _missed(connection: Connection, record: Record) -> GridcloudError:
    table = tables.records.c
    query = select(table.version).where(table.kind == record.kind, table.id == record.id)
    version = connection.execute(query).scalar()
    if version is None:
        return NotFound(f"There is no {record.kind} {record.id} any more.")
    return Conflict(
        f"The {record.kind} {record.id} was changed meanwhile (version {record.version} was read, {version} is there).",
        remedy="Read it again and decide anew.",
    )


def _lines(record: Record, entries: Iterable[Entry], now: datetime) -> list[dict[str, Any]]:
    return [_line(record.kind, record.id, record.owner, entry, now) for entry in entries]


def _line(kind: str, subject: str, owner: str, entry: Entry, now: datetime) -> dict[str, Any]:
    return {
        "kind": kind,
        "subject": subject,
        "owner": owner,
        "at": _microseconds(now),
        "type": str(entry.type),
        "message": _printable(entry.message),
        "data": _json(entry.data),
    }


def _printable(text: str) -> str:
    # Messages quote what programs wrote; neither database keeps lone surrogates, and PostgreSQL no NUL.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _tell(connection: Connection, lines: Sequence[dict[str, Any]]) -> list[Event]:
    """Write the events and return them as stored."""
    told = []
    for line in lines:
        key = connection.execute(insert(tables.events), line).inserted_primary_key
        assert key is not None  # noqa: S101 - the table has a key that the database counts
        told.append(
            Event(
                key[0],
                line["kind"],
                line["subject"],
                line["owner"],
                _time(line["at"]),
                line["type"],
                line["message"],
                json.loads(line["data"]),
            )
        )
    return told


def _record(row: Row[Any]) -> Record:
    return Record(
        row.kind,
        row.id,
        row.owner,
        row.state,
        json.loads(row.body),
        row.version,
        _time(row.created),
        _time(row.updated),
    )


def _event(row: Row[Any]) -> Event:
    return Event(
        row.seq, row.kind, row.subject, row.owner, _time(row.at), row.type, row.message, json.loads(row.data)
    )


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
