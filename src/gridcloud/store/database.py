"""Open a database safely: its file, its connections, its revision, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from gridcloud.errors import (
    DriverUnavailable,
    GridcloudError,
    InvalidSettings,
    StorageFull,
    StoreTooNew,
    Unreachable,
)
from gridcloud.store.tables import HEAD, REVISIONS

__all__ = ["connect", "database_error", "lock_writes", "migrate", "parse_location"]

BUSY_SECONDS = 30
ADVISORY_LOCK = 0x67726964
"""Number of the lock that PostgreSQL writers take: so that events become visible in the order of their ``seq``."""
# Alembic keeps the database that it works on for the whole process: two at once would be mixed up.
_upgrading = threading.Lock()


def parse_location(location: str | os.PathLike[str]) -> URL:
    """Return the URL of a store given as the path of a SQLite file or as a URL. Raises InvalidSettings."""
    spelled = os.fspath(location)
    if "://" not in spelled:
        return URL.create("sqlite", database=os.path.abspath(spelled))
    try:
        url = make_url(spelled)
    except (ArgumentError, ValueError) as error:
        # The text may hold a password, so it is not repeated.
        raise InvalidSettings(
            "The store's URL cannot be read.", remedy="Write postgresql+psycopg://USER@HOST/DATABASE."
        ) from error
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url.set(database=os.path.abspath(url.database))
    if url.drivername != "postgresql+psycopg":
        raise InvalidSettings(
            f"A store cannot be kept in {url.drivername!r}.",
            remedy="Give the path of a file, or a URL postgresql+psycopg://USER@HOST/DATABASE.",
        )
    return url


def connect(url: URL) -> Engine:
    """Return an engine for the URL; a SQLite file is made, for its owner only. Raises GridcloudError."""
    if url.get_backend_name() == "sqlite":
        _make_private(Path(str(url.database)))
    try:
        engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite", pool_size=6)
    except (ImportError, NoSuchModuleError) as error:
        raise DriverUnavailable(
            f"The store {_spell(url)} needs the library psycopg, which is not installed ({error}).",
            remedy="Run: pip install 'gridcloud[postgresql]'",
        ) from error
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def lock_writes(connection: Connection) -> None:
    """Keep other writers out until the transaction ends (SQLite does so by itself)."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})


def migrate(engine: Engine) -> str | None:
    """Bring the tables to this version's revision, in one transaction that keeps others out.

    Returns the revision found, None for a new store. A SQLite file is copied to ``FILE.REVISION.backup`` first.
    Raises StoreTooNew for a revision that this version does not know.
    """
    with engine.connect() as reading:
        found = _revision(reading)
    if found == HEAD:
        return found
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        lock_writes(connection)
        found = _revision(connection)  # another process may have been quicker
        if found == HEAD:
            return found
        if found is not None and found not in REVISIONS:
            raise StoreTooNew(
                f"The store {_spell(engine.url)} has revision {found}, which this gridcloud does not know"
                f" (it knows up to {HEAD}): a newer gridcloud wrote it.",
                remedy="Install that newer gridcloud (pip install -U gridcloud), or name another store.",
            )
        if found is not None and engine.dialect.name == "sqlite":
            _back_up(Path(str(engine.url.database)), found)
        _upgrade(connection)
    return found


def database_error(error: BaseException, url: URL) -> GridcloudError:
    """Return what a database's error means to us, naming the store."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(original).strip().splitlines()[0] if str(original).strip() else type(original).__name__
    name = _spell(url)
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (isinstance(original, OSError) and original.errno == 28):
        return StorageFull(
            f"The disk that holds the store {name} is full.", remedy="Free some space there, then try again."
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return GridcloudError(
            f"The store {name} is damaged or is no gridcloud store ({said}).",
            remedy="Put a backup (*.backup beside it, or your own) in its place, or move it away to start anew.",
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return GridcloudError(
            f"The store {name} cannot be written ({said}).",
            remedy="Check the file's and the folder's owner and mode.",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unreachable(f"The store {name} is held by another program for more than {BUSY_SECONDS} s.")
    if type(original).__name__ in ("OperationalError", "InterfaceError", "AdminShutdown") and code == 0:
        return Unreachable(f"The store {name} does not answer: {said}.", remedy="Check that its server runs.")
    return GridcloudError(f"The store {name} failed: {said}.")


def _make_private(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made before SQLite would, so that it is at no time readable by others; -wal and -shm take its mode.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise GridcloudError(
            f"The store {path} cannot be opened: {error.strerror}.",
            remedy="Check the path and who owns its folder, or name another data folder (GRIDCLOUD_DATA).",
        ) from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = (
        None  # we begin transactions ourselves: the driver's own way breaks savepoints
    )
    for pragma in (
        f"busy_timeout = {BUSY_SECONDS * 1000}",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            # For this one statement SQLite does not wait by itself when another process makes the same switch.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "gridcloud.store:migrations")
    config.set_main_option("path_separator", "os")
    with _upgrading:
        command.upgrade(config, "head")


def _back_up(path: Path, revision: str) -> None:
    target = path.with_name(f"{path.name}.{revision}.backup")
    partial = target.with_name(target.name + ".part")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy)
    partial.replace(target)


def _spell(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True)
