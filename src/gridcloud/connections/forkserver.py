"""A fork server: Python programs that start at once, by forking a process that has imported them already.

``python -m gridcloud.connections.forkserver --socket PATH --parent PID --program NAME=MODULE:FUNCTION[,MODULE…]``
imports once and then forks for every request on a socket that only its own user may use. It reads no request
itself: the forked process does, so that nothing of one user is in the memory of another's, and a slow client holds
up nobody. That process enters the instance's limits, becomes the user, and forks the program. It writes the files
``pid`` and ``exit`` beside the log, as `gridcloud.connections.programs` has them, and stays until the program ends.

Programs live on when the server ends, and the server ends with the process that started it. `ForkServer` is the
side that asks; it starts the server, and starts it again when it has died.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import pwd
import resource
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gridcloud.connections.driver import Command
from gridcloud.connections.environment import inherited
from gridcloud.errors import Forbidden, InvalidRequest, TimedOut, Unreachable

__all__ = ["ForkServer", "Program", "main"]

_log = logging.getLogger(__name__)

_REQUEST = 8 << 20  # bytes of one request, at most
_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be forked: ``function`` of ``module`` runs it, as its console script would."""

    name: str
    """First word of the commands it serves."""
    module: str
    function: str = "main"
    preload: tuple[str, ...] = ()
    """Modules to import beforehand, beside ``module``: those it would import while it starts. A program with any is
    taken to import more while it runs."""

    def __str__(self) -> str:
        return ",".join((f"{self.name}={self.module}:{self.function}", *self.preload))


class ForkServer:
    """Starts a fork server and asks it. One object per server; its methods may run at the same time."""

    def __init__(self, folder: Path, programs: Iterable[Program], block: Iterable[str] = ()) -> None:
        """Serve ``programs`` from a private ``folder`` (made 0700); ``block`` names modules that none may import,
        for those that cost much and are missed by nobody."""
        self.programs = {program.name: program for program in programs}
        self._folder = folder
        self._block = tuple(block)
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._restart: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the server runs and has everything imported."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and return when it has imported everything; return at once when it runs already.

        Raises InvalidRequest, with what the server said, when a program cannot be imported.
        """
        async with self._starting:
            if not self.alive:
                self._process = await self._launch()

    async def fork(
        self, command: Command, log: str, *, directory: str, user: str = "", enter: Sequence[str] = ()
    ) -> int | None:
        """Start ``command`` and return its process id; None when it must be started plainly: no such program, no
        server (it is then started for the next time), or the server cannot do what is asked.

        ``environment`` of the command is all it gets. Output is appended to ``log``, an absolute path. ``enter`` is
        the instance's command to enter its limits; it must know ``--adopt``. Raises TimedOut when the server does
        not answer: whether the program runs is then unknown; Forbidden when the user may not read this Python and the
        program would need to, for what it has yet to import, and for its kernels.
        """
        program = self.programs.get(command.words[0]) if command.terminal is None else None
        if program is None:
            return None
        if not self.alive:
            self._start_later()
            return None
        request = {
            "program": program.name,
            "words": list(command.words),
            "environment": dict(command.environment),
            "directory": directory,
            "log": log,
            "user": user,
            "enter": list(enter),
            "imports": bool(program.preload),
        }
        try:
            reader, writer = await asyncio.open_unix_connection(self._folder / "socket")
        except OSError:
            self._start_later()
            return None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                writer.write(json.dumps(request).encode())
                writer.write_eof()
                answer = json.loads(await reader.read() or b"{}")
        except (TimeoutError, OSError, ValueError) as error:
            raise TimedOut(f"the fork server did not say whether it started {program.name}") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if "pid" in answer:
            return int(answer["pid"])
        if "closed" in answer:
            raise Forbidden(
                f"{user} may not enter {answer['closed']}, below which the Python of gridcloud lies that "
                f"{program.name} needs.",
                remedy="Install gridcloud, and the Python it runs on, where every account may read them, as below "
                f"/opt; or open that folder to others: chmod o+x {answer['closed']}",
            )
        if not answer:
            raise TimedOut(f"the fork server was cut off while it started {program.name}")
        _log.warning("%s is started plainly: %s", program.name, answer.get("error"))
        return None

    async def close(self) -> None:
        """End the server; what it has forked lives on. May be called twice."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        async with self._starting:
            process, self._process = self._process, None
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.communicate()

    def _start_later(self) -> None:
        if self._restart is None or self._restart.done():
            self._restart = asyncio.create_task(self._start_quietly())

    async def _start_quietly(self) -> None:
        try:
            await self.start()
        except (InvalidRequest, Unreachable, OSError) as error:
            _log.warning("the fork server does not start: %s", error)

    async def _launch(self) -> asyncio.subprocess.Process:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        words = [sys.executable, "-P", "-m", __name__, "--socket", str(self._folder / "socket")]
        words += ["--parent", str(os.getpid())]
        for program in self.programs.values():
            words += ["--program", str(program)]
        for module in self._block:
            words += ["--block", module]
        with (self._folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=inherited(),
                start_new_session=True,
            )
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            async with asyncio.timeout(_START_SECONDS):
                if await process.stdout.readline() == b"ready\n":
                    return process
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
            if isinstance(error, TimeoutError):
                raise Unreachable(f"the fork server was not ready within {_START_SECONDS:g} s") from error
            raise
        await process.communicate()
        said = (self._folder / "log").read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise InvalidRequest(
            f"the fork server cannot start: {said[-1]}", remedy=f"See {self._folder / 'log'}."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; see the module."""
    parser = argparse.ArgumentParser(prog="gridcloud.connections.forkserver")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--program", action="append", default=[], type=_parse)
    parser.add_argument("--block", action="append", default=[])
    asked = parser.parse_args(arguments)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != asked.parent:
        return 0
    for module in asked.block:
        sys.modules[module] = None  # type: ignore[assignment]  # how an import is made to fail
    programs = {program.name: _load(program) for program in asked.program}
    with _listen(asked.socket) as listener:
        gc.collect()
        gc.freeze()  # what is imported stays in memory that is never written to, and so is shared
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = listener.accept()
            with connection:
                if _uid_of(connection) == os.geteuid() and os.fork() == 0:
                    _start(connection, programs)


def _parse(text: str) -> Program:
    first, *preload = text.split(",")
    name, _, target = first.partition("=")
    module, _, function = target.partition(":")
    return Program(name, module, function or "main", tuple(preload))


def _load(program: Program) -> Callable[[], Any]:
    module = importlib.import_module(program.module)
    for name in program.preload:
        importlib.import_module(name)
    function: Callable[[], Any] = getattr(module, program.function)
    return function


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(256)
    return listener


def _uid_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _start(connection: socket.socket, programs: Mapping[str, Callable[[], Any]]) -> NoReturn:
    """Read the request and fork the program; answer; stay until it ends, and write down how."""
    try:
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        kept = connection.fileno()
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        request = _read(connection)
        function = programs[request["program"]]
        folder = _prepare(request)
        pid = os.fork()
        if pid == 0:
            connection.close()
            os.close(folder)
            os.setsid()
            os._exit(_run(function))
        _write(folder, "pid", f"{pid} {_birth(pid)}\n")
        connection.sendall(json.dumps({"pid": pid}).encode())
        connection.close()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        _write(folder, "exit", f"{pid} {code if code >= 0 else 128 - code}\n")
    except _Closed as closed:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"closed": str(closed)}).encode())
        os._exit(1)
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    os._exit(0)


def _read(connection: socket.socket) -> dict[str, Any]:
    connection.settimeout(_ANSWER_SECONDS)
    text = bytearray()
    while block := connection.recv(1 << 16):
        text += block
        if len(text) > _REQUEST:
            raise ValueError("the request is too long")
    request: dict[str, Any] = json.loads(text)
    return request


def _prepare(request: Mapping[str, Any]) -> int:
    """Take the program's limits, user, environment, output and folder; return its log's folder, open."""
    environment = dict(request["environment"])
    limits = _enter(request["enter"])
    if "OMP_NUM_THREADS" in environment:
        limits.pop("OMP_NUM_THREADS", None)  # a hint, which the user may know better
    environment |= limits
    if request["user"]:
        places = _installed() if request["imports"] else ()
        _become(request["user"])
        _require_open(places)
    _rewrite(environment, request["words"])
    sys.argv = list(request["words"])
    path, name = os.path.split(request["log"])
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    log = os.open(name, flags, 0o600, dir_fd=folder)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink("exit", dir_fd=folder)
    os.close(log)
    os.close(nothing)
    os.chdir(request["directory"])
    return folder


def _enter(enter: Sequence[str]) -> dict[str, str]:
    """Enter the instance's limits; return the variables it sets. Root does it, so nothing of the request's
    environment takes part."""
    if not enter:
        return {}
    done = subprocess.run(
        [*enter, "--adopt", str(os.getpid())],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=10,
    )
    if done.returncode:
        raise InvalidRequest(f"the instance cannot be entered: {done.stderr.strip()}")
    variables: dict[str, str] = {}
    for line in done.stdout.splitlines():
        word, _, value = line.partition(" ")
        match word:
            case "export":
                name, _, value = value.partition("=")
                variables[name] = value
            case "data":
                resource.setrlimit(resource.RLIMIT_DATA, (int(value), int(value)))
            case "cores":
                os.sched_setaffinity(0, {int(core) for core in value.split(",")})
            case "nice":
                os.nice(int(value))
            case _:
                raise InvalidRequest(f"the instance says {line!r}, which is unknown")
    return variables


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    if entry.pw_uid == os.geteuid():
        return
    os.initgroups(user, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    # A process that changed its user may not look at itself in /proc, which programs expect to.
    _prctl(_PR_SET_DUMPABLE, 1)


class _Closed(Exception):
    """A folder that the user may not enter."""


def _installed() -> tuple[Path, ...]:
    """Return where this Python lies: its program, what it was made from, its libraries, ourselves."""
    program = Path(sys.executable)
    return program, program.resolve(), Path(sys.prefix), Path(os.__file__).resolve(), Path(__file__).resolve()


def _require_open(places: Iterable[Path]) -> None:
    """Raise _Closed for the first folder on the way to a place that we, as the user now, may not pass."""
    for place in places:
        for folder in reversed(place.parents):
            if not os.access(folder, os.X_OK):
                raise _Closed(folder)


def _rewrite(environment: Mapping[str, str], words: Sequence[str]) -> None:
    """Replace the environment, and the server's own in /proc, by which an instance's processes are known.

    The kernel shows there what was on the stack when the server was started; nothing points to it any more.
    """
    os.environ.clear()
    os.environ.update(environment)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arguments, arguments_end, variables, variables_end = (int(field) for field in fields[45:49])
    instance = environment.get("GRIDCLOUD_INSTANCE", "")
    shown = f"GRIDCLOUD_INSTANCE={instance}".encode() if instance else b""
    for start, end, text in (
        (arguments, arguments_end, b"\0".join(word.encode() for word in words)),
        (variables, variables_end, shown),
    ):
        if 0 < start < end:
            ctypes.memset(start, 0, end - start)
            ctypes.memmove(start, text[: end - start - 1], len(text[: end - start - 1]))


def _run(function: Callable[[], Any]) -> int:
    """Run the program as its console script would; return its exit code."""
    code: Any = 0
    try:
        code = function()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code & 255 if isinstance(code, int) else int(code is not None)


def _write(folder: int, name: str, text: str) -> None:
    new = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with os.fdopen(new, "w") as file:
        file.write(text)
    os.replace(f"{name}.new", name, src_dir_fd=folder, dst_dir_fd=folder)


def _birth(pid: int) -> str:
    """Return when a process was born, by boot and clock tick: no other ever has both this and its number."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{ticks}"


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main())
