"""Runs one application of a session: starts it when somebody asks for it, passes everything on, ends all of it.

``python -I app.py APPS NAME SOCKET PARENT`` listens on ``SOCKET`` and starts what the entry ``NAME`` of the file
``APPS`` says at the first request, again when it has ended, and says on a page why it does not start. Everything
that the application started ends with the session's server, process ``PARENT``, however that ended.

It travels to machines that have no gridcloud: Python 3.8 and its own library are all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from serving import page  # type: ignore[import-not-found, unused-ignore]
from ties import (  # type: ignore[import-not-found, unused-ignore]
    adopt_orphans,
    be_killed_with_parent,
    be_told_of_parents_end,
)

__all__ = ["Application", "Door", "NotStarted", "main"]

MISSING = 69
"""Exit code of our own programs that lack something; what they said last says what."""

PLACES = ("/usr/lib/rstudio-server/bin", "/usr/lib/rstudio/bin", "/opt/TurboVNC/bin", "/opt/VirtualGL/bin")
"""Folders in which some programs lie, beside those of PATH."""

GRACE = 3.0  # seconds that an application has to end by itself
AGAIN = 3.0  # seconds that a failure is told to whoever asks


class NotStarted(Exception):
    """Why there is no application, in words for its user, and its own last words."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Application:
    """The program behind a card. One at a time."""

    def __init__(self, given: dict[str, Any], name: str, socket: str) -> None:
        self.given = given
        self.title = str(given["title"])
        self.socket = socket
        self.inner = f"{socket}.in"
        self.log = f"{socket}.log"
        self.values = {
            "{socket}": self.inner,
            "{stream}": f"{socket}.stream",
            "{base_url}": f"{os.environ.get('JUPYTERHUB_SERVICE_PREFIX', '/')}{name}/",
            "{python}": sys.executable,
            "{files}": os.path.dirname(os.path.abspath(__file__)),
        }
        self.mark = f"GRIDCLOUD_APP={socket}".encode()
        self.pid = 0
        self.code: int | None = None
        self._starting: asyncio.Future[None] | None = None
        self._failed = (0.0, NotStarted(""))

    async def reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to it, started if need be. Raises NotStarted.

        All who ask while it starts wait for the one start, and those who come just after it failed hear of that: the
        session's server asks several times for each click.
        """
        if self._starting is None and (not self.pid or self.code is not None):
            when, error = self._failed
            if time.monotonic() - when < AGAIN:
                raise error
            self._starting = asyncio.ensure_future(self._start())
        if self._starting is not None:
            await asyncio.shield(self._starting)
        try:
            return await asyncio.open_unix_connection(self.inner)
        except OSError as error:
            raise NotStarted(
                f"{self.title} does not answer: {error.strerror}.", self._last_words()
            ) from error

    def reap(self) -> None:
        """Note what has ended; what our children left behind is ours, too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.pid:
                    self.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    async def end(self) -> None:
        """End everything it started, and whatever is left of one before."""
        for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 2.0)):
            deadline = time.monotonic() + seconds
            _signal(self._all(), number)
            while self._all() and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                self.reap()
        for path in (self.inner, self.values["{stream}"]):
            with contextlib.suppress(OSError):
                os.unlink(path)

    async def _start(self) -> None:
        try:
            await self._try_start()
        except NotStarted as error:
            self._failed = time.monotonic(), error
            raise
        finally:
            self._starting = None

    async def _try_start(self) -> None:
        await self.end()
        words = [self._filled(word) for word in self.given["command"]]
        environment = {name: self._filled(value) for name, value in self.given["environment"].items()}
        environment = {**os.environ, **environment, "GRIDCLOUD_APP": self.socket}
        places = [os.path.dirname(sys.executable), environment.get("PATH", os.defpath), *PLACES]
        environment["PATH"] = os.pathsep.join([*places[1:], places[0]])
        program = shutil.which(words[0], path=environment["PATH"])
        if program is None:
            raise self._missing(f"There is no program {words[0]!r} here.")
        self._launch([program, *words[1:]], environment)
        await self._wait()

    def _launch(self, words: list[str], environment: dict[str, str]) -> None:
        self.code = None
        with open(self.log, "wb", opener=_private) as log:
            process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=be_killed_with_parent,  # noqa: PLW1509 - one thread only
            )
        self.pid = process.pid
        process.returncode = 0  # it is reaped with all others
        self.reap()  # it may have ended before we knew its number

    async def _wait(self) -> None:
        deadline = time.monotonic() + float(self.given["start"])
        while not await self._answers():
            self.reap()
            if self.code == MISSING:
                raise self._missing(self._last_words() or "Something it needs is missing.")
            if self.code is not None:
                raise NotStarted(
                    f"{self.title} has ended by itself (exit code {self.code}).", self._last_words()
                )
            if time.monotonic() > deadline:
                said = self._last_words()
                await self.end()
                raise NotStarted(f"{self.title} did not answer within {self.given['start']} s.", said)
            await asyncio.sleep(0.1)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError, IndexError):
            reader, writer = await asyncio.open_unix_connection(self.inner)
            try:
                path = self.given["ready"]
                if self.given["whole_path"]:
                    path = self.values["{base_url}"] + path[1:]
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                line = await asyncio.wait_for(reader.readline(), 5)
                return line.startswith(b"HTTP/1.") and int(line.split()[1]) < 500
            finally:
                writer.close()
        return False

    def _missing(self, said: str) -> NotStarted:
        return NotStarted(f"{self.title} is not on this machine. {self.given['install']}".strip(), said)

    def _filled(self, text: str) -> str:
        for name, value in self.values.items():
            text = text.replace(name, value)
        return text

    def _last_words(self) -> str:
        try:
            with open(self.log, "rb") as log:
                log.seek(max(0, os.path.getsize(self.log) - 4000))
                return "\n".join(log.read().decode(errors="replace").strip().splitlines()[-20:])
        except OSError:
            return ""

    def _all(self) -> set[int]:
        """Return its processes: all below us, and all that have its mark in their environment."""
        parents: dict[int, int] = {}
        found: set[int] = set()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = (
                    Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                )
                if state == "Z":
                    continue
                parents[int(entry)] = int(parent)
                if self.mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.add(int(entry))
        below = {os.getpid()}
        while True:
            more = {pid for pid, parent in parents.items() if parent in below} - below
            if not more:
                return (found | below) - {os.getpid()}
            below |= more


class Door:
    """Takes connections for an application and passes them on."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, or say on a page why that cannot be done."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                try:
                    app_reader, app_writer = await self.app.reach()
                except NotStarted as error:
                    writer.write(_answer(page(self.app.title, str(error), error.details)))
                    await writer.drain()
                    return
                app_writer.write(head)
                await _pass(reader, writer, app_reader, app_writer)
            finally:
                writer.close()


async def _pass(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    app_reader: asyncio.StreamReader,
    app_writer: asyncio.StreamWriter,
) -> None:
    """Pass bytes both ways until either side is done."""
    ways = [
        asyncio.ensure_future(_pump(reader, app_writer)),
        asyncio.ensure_future(_pump(app_reader, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        app_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            block = await reader.read(1 << 16)
            if not block:
                return
            writer.write(block)
            await writer.drain()


def _answer(text: str) -> bytes:
    body = text.encode()
    return (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


async def _run(app: Application, parent: int) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, done.set)
    loop.add_signal_handler(signal.SIGCHLD, app.reap)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(app.socket)
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(Door(app).serve, app.socket, limit=1 << 18)
    finally:
        os.umask(before)
    # The signal at its death is lost where that came before we asked for it.
    while os.getppid() == parent and not done.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(done.wait(), 2)
    server.close()
    await app.end()


def _enter(folder: str) -> None:
    """Make the folder of the sockets, or see that it is ours. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if found.st_uid != os.geteuid() or found.st_mode & 0o170077 != 0o040000:
        raise OSError(f"{folder} is not a folder of ours alone")


def _clear(folder: str, name: str) -> None:
    """Remove what is ours in the folder, and the folder if it is the last one's."""
    for entry in Path(folder).iterdir():
        if entry.name == name or entry.name.startswith(f"{name}."):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def main(arguments: list[str]) -> int:
    """Run it until the session's server is gone."""
    apps, name, socket, parent = arguments
    with contextlib.suppress(OSError):  # a leader already
        os.setsid()  # not to be ended with the server, at one blow, before what we started
    be_told_of_parents_end()
    adopt_orphans()
    folder = os.path.dirname(socket)
    _enter(folder)
    app = Application(json.loads(Path(apps).read_text(encoding="utf-8"))[name], name, socket)
    try:
        asyncio.run(_run(app, int(parent)))
    finally:
        _clear(folder, name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
