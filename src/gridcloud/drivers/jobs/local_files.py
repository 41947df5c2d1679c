"""The files of the ``local`` scheduler: slips that it alone may write, and folders that belong to the jobs.

A job runs as its owner's account and may do with its own folder what it likes. So nothing that steers the scheduler
lies there, and what is read there is read without following a link that was put in the way.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gridcloud.errors import Forbidden, NotFound
from gridcloud.jobs.driver import Part, Stream
from gridcloud.jobs.folders import part_of
from gridcloud.jobs.frame import MARK, End, read_end

__all__ = [
    "NAMES",
    "Running",
    "Slip",
    "boot_id",
    "end_stragglers",
    "find_frame",
    "lay_out",
    "read_last_words",
    "read_part",
    "tidy",
    "write_slip",
]

NAMES = {Stream.OUT: ("out.log",), Stream.ERR: ("err.log",), Stream.RESULT: ("work", "result.json")}
"""Where each stream lies in a job's folder."""


@dataclass(frozen=True, slots=True)
class Slip:
    """What the scheduler knows of one attempt; a file that it alone may write."""

    handle: str
    account: str
    """Account that it runs as; empty: gridcloud's own."""
    folder: str
    cpus: float
    memory: int
    gpus: int
    number: int
    """Its place in the queue."""
    cancelled: bool = False
    """It was ended before it began."""


@dataclass(frozen=True, slots=True)
class Running:
    """The process that runs a frame."""

    pid: int
    descriptor: int
    """A pidfd: readable once it has ended, and never another process's."""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal. Ended: nothing happens."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def write_slip(folder: Path, slip: Slip) -> None:
    """Write a slip, whole or not at all."""
    fresh = folder / f".{slip.handle}.{secrets.token_hex(4)}"
    fresh.write_text(json.dumps(asdict(slip)))
    fresh.replace(folder / f"{slip.handle}.json")


def lay_out(slip: Slip, files: Mapping[str, bytes], inputs: Mapping[str, Path]) -> None:
    """Make a job's folder with these files, the account's own from when it appears. Raises OSError, Forbidden."""
    folder = Path(slip.folder)
    mode = 0o711 if slip.account else 0o700
    folder.parent.mkdir(mode=mode, parents=True, exist_ok=True)
    found = folder.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o002:
        raise Forbidden(
            f"{folder.parent} is no place for jobs: others on this computer may write there",
            remedy="Set 'directory' of this scheduler to a folder that only you may write to.",
        )
    fresh = folder.with_name(f".{slip.handle}.{secrets.token_hex(4)}")
    fresh.mkdir(mode=0o700)
    try:
        (fresh / "work").mkdir(mode=0o700)
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Never readable by others, not even for an instant: secrets may be in it.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        for name, source in inputs.items():
            path = fresh / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(source, path)
            path.chmod(0o700 if source.stat().st_mode & 0o100 else 0o600)
        if slip.account:
            entry = pwd.getpwnam(slip.account)
            for place in _all(fresh):
                os.chown(place, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        if not folder.is_dir():
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def read_part(slip: Slip, stream: Stream, offset: int, most: int) -> Part:
    """Read from a job's file. Raises NotFound where there is none, or what is there is none of the job's."""
    return _read(slip, NAMES[stream], offset, most)


def read_last_words(slip: Slip) -> End | None:
    """Return what a job's frame wrote at its end; None where it has not, or not wholly."""
    with contextlib.suppress(NotFound, OSError):
        return read_end(_read(slip, ("end.json",), 0, 4096).data)
    return None


def _read(slip: Slip, names: Sequence[str], offset: int, most: int) -> Part:
    with contextlib.ExitStack() as stack:
        *folders, name = names
        try:
            descriptor = os.open(slip.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, descriptor)
            for part in folders:
                descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                stack.callback(os.close, descriptor)
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
        except OSError as error:
            raise NotFound(f"{slip.handle} has no {'/'.join(names)}: {error.strerror}.") from error
        stack.callback(os.close, descriptor)
        found = os.fstat(descriptor)
        owner = pwd.getpwnam(slip.account).pw_uid if slip.account else os.geteuid()
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (owner, os.geteuid()) or found.st_nlink > 1:
            raise NotFound(f"{'/'.join(names)} of {slip.handle} is no file of its own.")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return part_of(file, offset, most)


def find_frame(slip: Slip) -> tuple[bool, Running | None]:
    """Return whether a frame began with a job, and the process that runs it; None where that has ended."""
    begun = Path(slip.folder) / "begun"
    try:
        pid, born, boot = _read(slip, ("begun", "pid"), 0, 200).data.decode().split()
        if boot != boot_id():
            return True, None
        descriptor = os.pidfd_open(int(pid))
    except (NotFound, OSError, ValueError):
        return begun.is_dir(), None
    # The job may have written another's number there: only a process of its own is ever signalled.
    if _is_of(int(pid), slip) and _born(int(pid)) == born:
        return True, Running(int(pid), descriptor)
    os.close(descriptor)
    return True, None


def end_stragglers(slips: Mapping[str, Slip]) -> int:
    """Kill every process that carries the mark of one of these jobs, by handle, and is of its account; return how many
    there were. Looks at all processes."""
    count = 0
    for entry in os.listdir("/proc") if slips else ():
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        slip = slips.get(_handle_of(int(entry)))
        if slip is not None and _is_of(int(entry), slip):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry), signal.SIGKILL)
                count += 1
    return count


def tidy(folder: Path) -> None:
    """Remove a job's folder. Raises OSError where something is left."""
    if not os.path.lexists(folder):
        return
    grave = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    folder.rename(grave)
    shutil.rmtree(grave)


def boot_id() -> str:
    """Return what changes whenever this computer is restarted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_of(pid: int, slip: Slip) -> bool:
    """Whether a process carries a job's mark and is of its account, as who runs its programs is."""
    try:
        owner = pwd.getpwnam(slip.account).pw_uid if slip.account else os.geteuid()
        return os.stat(f"/proc/{pid}").st_uid == owner and _handle_of(pid) == slip.handle
    except (OSError, KeyError):
        return False


def _handle_of(pid: int) -> str:
    """The handle in a process's environment, empty where there is none."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            _, found, rest = (b"\0" + file.read()).partition(f"\0{MARK}=".encode())
    except OSError:
        return ""
    return rest.partition(b"\0")[0].decode(errors="replace") if found else ""


def _born(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _all(folder: Path) -> Iterator[str]:
    """Everything in a folder, the folder itself last."""
    for above, folders, files in os.walk(folder, topdown=False):
        yield from (os.path.join(above, name) for name in (*files, *folders))
    yield str(folder)
