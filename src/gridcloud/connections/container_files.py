"""Files of a container, as a tar stream through its own `tar`: written and read as the container's user."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gridcloud.connections import archives
from gridcloud.connections.container_process import drain
from gridcloud.connections.driver import Command, Connection, Process, Progress
from gridcloud.errors import Forbidden, GridcloudError, InvalidRequest, NotFound, Rejected, StorageFull

__all__ = ["get", "put"]

PATIENCE = 10
"""Seconds that a program there has to end when it is told to."""

# Receives a tar stream beside its target, and moves it there when it is complete.
RECEIVE = r"""
target=$1; export LC_ALL=C
case $target in */*) parent=${target%/*}; [ -n "$parent" ] || parent=/;; *) parent=.;; esac
mkdir -p -- "$parent" || exit 1
work=$parent/.gridcloud-$2
trap 'trap "" HUP INT TERM; rm -rf "$work"' EXIT; trap 'exit 1' HUP INT TERM
mkdir -m 700 "$work" || exit 1
tar -xpf - -o -C "$work" && [ -e "$work/whole" ] || exit 1
if [ -d "$work/content" ] && [ -d "$target" ]; then
  cd "$work/content" && case $target in /*) ;; *) target=$OLDPWD/$target;; esac
  export target
  find . -type d -exec sh -c 'for path; do mkdir -p "$target/$path" || exit 1; done' sh {} + || exit 1
  find . ! -type d -exec sh -c 'for path; do mv -f "$path" "$target/$path" || exit 1; done' sh {} + || exit 1
elif [ -d "$target" ] && [ ! -L "$target" ]; then
  echo "Is a directory" >&2; exit 1
else
  mv -f "$work/content" "$target" || exit 1
fi
"""

# Sends "d" and what is in a folder, or "f" and a file.
SEND = r"""
source=$1; export LC_ALL=C
[ -e "$source" ] || { ls -d -- "$source" > /dev/null; exit 1; }
if [ -d "$source" ]; then cd -- "$source" && ls > /dev/null && echo d && exec tar -cf - .; exit 1; fi
[ -r "$source" ] || { echo "$source: Permission denied" >&2; exit 1; }
case $source in */*) cd -- "${source%/*}/" || exit 1; source=${source##*/};; esac
echo f && exec tar -chf - -- "./$source"
"""


async def put(connection: Connection, source: Path, target: str, progress: Progress | None) -> None:
    """Copy a file or folder into the container; see `Connection.put`."""
    if not source.exists():
        raise NotFound(f"There is no file or folder {source} here.")
    process = await connection.start(
        Command(("/bin/sh", "-c", RECEIVE, "receive", _plain(target), secrets.token_hex(8)))
    )
    said = asyncio.gather(drain(process.stdout()), drain(process.stderr()))
    pipe = _Pipe(process)
    ended = asyncio.ensure_future(process.wait())
    ended.add_done_callback(lambda _: pipe.stop())
    try:
        try:
            await _in_thread(pipe, archives.pack, source, pipe, progress)
        except _Stopped:
            pass  # the other side has ended, and says why below
        except OSError as error:
            raise _file_error(str(error), str(source), error) from error
        await process.close_input()
        if await ended:
            raise _file_error((await said)[1], target)
    except BaseException:
        # What came so far is removed there, before the end of input could make it look complete.
        await process.signal("TERM")
        await process.close_input()
        await asyncio.wait([ended], timeout=PATIENCE)
        raise
    finally:
        ended.cancel()
        said.cancel()
        await asyncio.gather(ended, said, return_exceptions=True)


async def get(connection: Connection, source: str, target: Path, progress: Progress | None) -> None:
    """Copy a file or folder out of the container; see `Connection.get`."""
    process = await connection.start(Command(("/bin/sh", "-c", SEND, "send", _plain(source))))
    complaint = asyncio.ensure_future(drain(process.stderr()))
    pipe = _Pipe(process)
    try:
        await process.close_input()
        kind = await pipe.kind()
        if not kind:
            await process.wait()
            raise _file_error(await complaint, source)
        if kind not in (b"d", b"f"):
            raise Rejected(f"The container sent something that is no tar stream: {kind!r}")
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".gridcloud-", dir=target.parent))
        try:
            await _unpack(pipe, work / "it", kind == b"d", progress)
            if await process.wait():
                raise _file_error(await complaint, source)
            await asyncio.to_thread(archives.install, work / "it", target)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, True)
    except OSError as error:
        raise _file_error(str(error), str(target), error) from error
    finally:
        complaint.cancel()
        await asyncio.shield(_give_up(pipe))
        await asyncio.gather(complaint, return_exceptions=True)


async def _unpack(pipe: _Pipe, target: Path, folder: bool, progress: Progress | None) -> None:
    try:
        await _in_thread(pipe, archives.unpack, pipe, target, folder, progress)
        await pipe.rest()
    except tarfile.TarError as error:
        if await pipe.process.wait() == 0:
            raise Rejected(f"The container sent something that is no tar stream: {error}") from error


class _Pipe:
    """A process's streams for a thread: reads and writes wait for the event loop."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._output = process.stdout()
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._stopped = False

    def write(self, data: bytes) -> int:
        self._wait(self.process.write(bytes(data)))
        return len(data)

    def read(self, size: int = -1) -> bytes:
        while len(self._held) < size:
            data = self._wait(self._next())
            if not data:
                break
            self._held += data
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    async def kind(self) -> bytes:
        """Return the line that tells what follows, b"" when nothing does."""
        while b"\n" not in self._held and len(self._held) < 16:
            data = await self._next()
            if not data:
                return b""
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line

    async def rest(self) -> None:
        while await self._next():
            pass

    def stop(self) -> None:
        """Make the thread end at its next read or write."""
        self._stopped = True

    async def _next(self) -> bytes:
        return await anext(self._output, b"")

    def _wait(self, work: Any) -> Any:
        if self._stopped:
            work.close()
            raise _Stopped("the copy was stopped")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Stopped(OSError):
    """A thread was told to end."""


async def _give_up(pipe: _Pipe) -> None:
    """End a process that may not have been read to its end. One that goes on for all that ends with its connection."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await pipe.process.signal("KILL")
            await pipe.rest()


async def _in_thread(pipe: _Pipe, function: Callable[..., None], *arguments: Any) -> None:
    """Run a blocking copy; when cancelled, end its thread before going on."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        pipe.stop()
        await pipe.process.signal("TERM")
        await asyncio.wait([work], timeout=PATIENCE)
        raise


def _plain(path: str) -> str:
    """A path that no program takes for an option."""
    return path if path.startswith("/") else f"./{path}"


def _file_error(said: str, path: str, error: OSError | None = None) -> GridcloudError:
    """Return our error for what `tar`, `mv` or the operating system says (in the C locale)."""
    number = error.errno if error else None
    text = said.strip().splitlines()[0] if said.strip() else "it ended without a word"
    if (
        number in (errno.ENOSPC, errno.EDQUOT)
        or "No space left" in said
        or "Wrote only" in said
        or "quota exceeded" in said.lower()
    ):
        return StorageFull(
            f"No space is left for {path}.", remedy="Remove something, or ask for a larger disk."
        )
    if (
        number in (errno.EACCES, errno.EPERM, errno.EROFS)
        or "ermission denied" in said
        or "Read-only" in said
    ):
        return Forbidden(f"{path} may not be read or written: {text}")
    if number == errno.ENOENT or "No such file" in said:
        return NotFound(f"There is no {path}: {text}")
    if "not found" in said:
        return Rejected(f"The container's image lacks a program that copying needs: {text}")
    return InvalidRequest(f"{path} was not copied: {text}")
