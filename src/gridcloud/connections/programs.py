"""Detached programs: they outlive the connection that started them, and any later connection finds them again.

Each has a folder on the instance, readable by its user alone: ``pid`` (process id and birth, so that a number used
again deceives nobody), ``exit`` (process id and exit code) and ``log`` (standard output and error). All of it is done
by fixed POSIX shell programs; what is run and its environment reach them as arguments and variables.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from gridcloud.connections import run
from gridcloud.connections.driver import Command, Connection, ForkServing
from gridcloud.connections.environment import check_command
from gridcloud.errors import InvalidRequest, NotFound, Rejected

__all__ = ["Exited", "Program", "Running", "find", "follow", "launch", "status", "stop", "tail"]

_PATIENCE = 60.0  # seconds that one of our shell programs may take

# Prints when a process was born: boot and clock tick, or what ps says; nothing for a zombie or when there is none.
_BORN = (
    "born() { gc_stat=; { IFS= read -r gc_stat </proc/$1/stat; } 2>/dev/null;"
    ' if [ -n "$gc_stat" ]; then set -- ${gc_stat##*") "};'
    " if [ $1 != Z ]; then IFS= read -r gc_boot </proc/sys/kernel/random/boot_id; echo $gc_boot/${20}; fi;"
    " elif [ ! -e /proc/self/stat ]; then ps -o lstart= -p $1 2>/dev/null | tr -s ' ' _; fi; }\n"
)
_FIND = (
    _BORN + "umask 077; gc_folder=$1\n"
    'mkdir -p -- "$gc_folder" || exit 3\n'
    'if { read -r gc_pid gc_born <"$gc_folder/pid"; } 2>/dev/null && [ -n "$gc_born" ]'
    ' && [ "$(born $gc_pid)" = "$gc_born" ]; then echo found $gc_pid $gc_born; exit 0; fi\n'
)
_RUN = (
    _BORN + "gc_folder=$1; shift; trap : TERM HUP INT QUIT USR1 USR2\n"
    'echo $$ $(born $$) >"$gc_folder/pid.new" && mv -f -- "$gc_folder/pid.new" "$gc_folder/pid" || exit 3\n'
    '(exec "$@") </dev/null >>"$gc_folder/log" 2>&1\n'
    'echo $$ $? >"$gc_folder/exit.new" && mv -f -- "$gc_folder/exit.new" "$gc_folder/exit"\n'
)
_LAUNCH = (
    "case $1 in /*) gc_folder=$1;; *) gc_folder=$PWD/$1;; esac; gc_directory=$2; gc_run=$3; gc_umask=$(umask)\n"
    'shift 3; set -- "$gc_folder" "$@"\n'
    'umask 077; mkdir -p -- "$1" || exit 3\n'
    "command -v setsid >/dev/null || { echo no-setsid; exit 0; }\n"
    'exec 9>"$1/lock"; if command -v flock >/dev/null; then flock 9; fi\n'
    + _FIND
    + 'if [ -n "$gc_directory" ]; then cd -- "$gc_directory" 2>/dev/null || { echo no-directory; exit 0; }; fi\n'
    "umask $gc_umask\n"
    'rm -f -- "$1/pid" "$1/exit"\n'
    'setsid /bin/sh -c "$gc_run" gridcloud "$@" </dev/null >/dev/null 2>&1 9>&- &\n'
    "gc_tries=0\n"
    "while [ $gc_tries -lt 400 ]; do\n"
    'if { read -r gc_pid gc_born <"$1/pid"; } 2>/dev/null; then echo started $gc_pid $gc_born; exit 0; fi\n'
    "gc_tries=$((gc_tries + 1)); sleep 0.025 2>/dev/null || sleep 1; done\n"
    "echo not-started\n"
)
_ADOPT = 'read -r gc_pid gc_born <"$1/pid" && echo found $gc_pid $gc_born\n'
_STATUS = (
    _BORN + 'if [ "$(born $2)" = "$3" ]; then echo running\n'
    'elif { read -r gc_pid gc_code <"$1/exit"; } 2>/dev/null && [ "$gc_pid" = $2 ]; then echo exited $gc_code\n'
    "else echo exited; fi\n"
)
# A program's whole tree: its session, and whatever its processes started elsewhere while they live.
_TREE = (
    'tree() { found=" $1 "; more=yes; while [ $more ]; do more=; for f in /proc/[0-9]*/stat; do'
    " { IFS= read -r s <$f; } 2>/dev/null || continue; p=${f#/proc/}; p=${p%/stat};"
    ' case $found in *" $p "*) continue;; esac;'
    ' set -- $1 ${s##*") "}; if [ $2 = Z ]; then continue; fi;'
    ' case $found in *" $3 "*) found="$found$p "; more=yes;;'
    ' *) if [ $5 = $1 ]; then found="$found$p "; more=yes; fi;; esac; done; done; }\n'
    'alive() { left=; for p in $found; do if [ "$(born $p)" ]; then left="$left $p"; fi; done; [ "$left" ]; }\n'
)
_STOP = (
    _BORN + _TREE + 'now=$(born $1); if [ "$now" ] && [ "$now" != "$2" ]; then exit 0; fi\n'
    "tree $1; kill -s TERM $found 2>/dev/null\n"
    "n=0; while [ $n -lt $3 ]; do alive || exit 0; n=$((n + 1)); sleep 0.1 2>/dev/null || sleep 1; done\n"
    "tree $1; alive; for p in $left; do if [ $p != $1 ]; then kill -s KILL $p 2>/dev/null; fi; done\n"
    # The leader, if it is our shell, now writes down the exit code and ends by itself.
    "n=0; while [ $n -lt 10 ]; do alive || exit 0; n=$((n + 1)); sleep 0.1 2>/dev/null || sleep 1; done\n"
    "tree $1; kill -s KILL $found 2>/dev/null; sleep 0.1 2>/dev/null; exit 0\n"
)
_FOLLOW = (
    _BORN + 'at=$4; while :; do [ "$(born $2)" = "$3" ] && on=yes || on=\n'
    'size=$(wc -c <"$1/log" 2>/dev/null) || size=0\n'
    'if [ "$size" -gt "$at" ]; then tail -c +$((at + 1)) -- "$1/log" | head -c $((size - at)) || exit 0\n'
    "at=$((size + 0)); fi\n"
    '[ "$on" ] || exit 0; sleep 0.3 2>/dev/null || sleep 1; done\n'
)


class Program(BaseModel):
    """A detached program, as a record that can be kept: what any connection needs to find it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    folder: str = Field(description="the program's own folder on the instance")
    pid: int
    born: str = Field(description="when the process was born, in the instance's own terms")

    @property
    def log(self) -> str:
        """The file that holds its output, on the instance."""
        return posixpath.join(self.folder, "log")


@dataclass(frozen=True, slots=True)
class Running:
    """The program runs."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The program has ended. ``code`` is 128 + n after signal n, None when nobody saw how it ended."""

    code: int | None


async def launch(connection: Connection, command: Command, *, name: str, folder: str) -> Program:
    """Start a program that outlives the connection, in ``folder``/``name`` on the instance.

    May be called again: where the program of this folder and name runs already, it is returned as it is. Raises
    NotFound when the working directory does not exist, Rejected when the instance cannot run detached programs.
    """
    check_command(command.words, command.environment)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise InvalidRequest(
            f"{name!r} is no name of a program.", remedy="Use letters, digits, '.', '_' and '-'."
        )
    place = posixpath.join(folder, name)
    if isinstance(connection, ForkServing):
        found = await find(connection, name=name, folder=folder)
        forked = found or await _fork(connection, connection, command, name, place)
        if forked is not None:
            return forked
    words = ("/bin/sh", "-c", _LAUNCH, "gridcloud", place, command.directory, _RUN, *command.words)
    answer = await _ask(connection, Command(words, command.environment))
    if answer == "no-directory":
        raise NotFound(f"There is no folder {command.directory!r} to work in.", remedy="Make it first.")
    if answer == "no-setsid":
        raise Rejected("The instance has no setsid program.", remedy="Install util-linux there.")
    return _program(name, place, answer)


async def find(connection: Connection, *, name: str, folder: str) -> Program | None:
    """Return the program of this folder and name if it runs."""
    place = posixpath.join(folder, name)
    answer = await _ask(connection, Command(("/bin/sh", "-c", _FIND, "gridcloud", place)))
    return _program(name, place, answer) if answer else None


async def status(connection: Connection, program: Program) -> Running | Exited:
    """Tell whether the program runs, and else how it ended."""
    words = ("/bin/sh", "-c", _STATUS, "gridcloud", program.folder, str(program.pid), program.born)
    state, _, code = (await _ask(connection, Command(words))).partition(" ")
    if state == "running":
        return Running()
    return Exited(int(code) if code.isdecimal() else None)


async def stop(connection: Connection, program: Program, grace: float = 10.0) -> None:
    """End the program with all it started: TERM, and after ``grace`` seconds KILL. Ended: nothing happens."""
    words = (
        "/bin/sh",
        "-c",
        _STOP,
        "gridcloud",
        str(program.pid),
        program.born,
        str(max(1, int(grace * 10))),
    )
    await run(connection, Command(words), timeout=grace * 4 + _PATIENCE)


async def tail(connection: Connection, program: Program, bytes: int = 8192) -> bytes:
    """Return the end of the program's log, at most so many bytes."""
    command = Command(("tail", "-c", str(bytes), "--", program.log))
    return (await run(connection, command, timeout=_PATIENCE, limit=bytes + 1)).stdout


async def follow(connection: Connection, program: Program, offset: int = 0) -> AsyncIterator[bytes]:
    """Yield the program's log from a byte on, as it grows, until the program has ended."""
    words = (
        "/bin/sh",
        "-c",
        _FOLLOW,
        "gridcloud",
        program.folder,
        str(program.pid),
        program.born,
        str(offset),
    )
    process = await connection.start(Command(words))
    try:
        await process.close_input()
        async for chunk in process.stdout():
            yield chunk
    finally:
        await process.signal("KILL")


async def _fork(
    connection: Connection, server: ForkServing, command: Command, name: str, place: str
) -> Program | None:
    """Start it by fork, where the fork server has it."""
    pid = await server.fork(command, posixpath.join(place, "log"))
    if pid is None:
        return None
    answer = await _ask(connection, Command(("/bin/sh", "-c", _ADOPT, "gridcloud", place, str(pid))))
    return _program(name, place, answer)


async def _ask(connection: Connection, command: Command) -> str:
    done = await run(connection, command, timeout=_PATIENCE, limit=1 << 20)
    if done.code != 0:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.code}"
        raise Rejected(
            f"The instance cannot keep a program's state: {said}.", remedy="Is its folder writable?"
        )
    return done.stdout.decode(errors="replace").strip()


def _program(name: str, place: str, answer: str) -> Program:
    _, _, rest = answer.partition(" ")
    pid, _, born = rest.partition(" ")
    if not pid.isdecimal():
        raise Rejected(f"The program {name!r} did not start there: {answer or 'no answer'}.")
    return Program(name=name, folder=place, pid=int(pid), born=born.strip())
