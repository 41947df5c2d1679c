"""SSH keys in a folder of their own, and lines of authorized_keys."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
from filelock import FileLock

from gridcloud.errors import Conflict, InvalidRequest, NotFound
from gridcloud.identity.public_keys import check_authorized_key

__all__ = ["KeyFolder", "add_authorized_key", "remove_authorized_key", "write_whole"]


class KeyFolder:
    """Private keys (0600) and their public halves in a folder (0700). Changes are whole, and one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def generate(self, name: str, comment: str = "") -> str:
        """Make an ed25519 key and return its public line. Raises Conflict when there is one of this name."""
        return self.store(name, asyncssh.generate_private_key("ssh-ed25519", comment=comment or name))

    def store(self, name: str, key: asyncssh.SSHKey, *, replace: bool = False) -> str:
        """Keep a private key and return its public line. Raises Conflict when there is one and ``replace`` is not."""
        private, public = self._files(name)
        with self._locked():
            if private.exists() and not replace:
                raise Conflict(f"There is already a key {name!r} in {self.path}.", remedy="Remove it first.")
            write_whole(public, key.export_public_key(), 0o644)
            write_whole(private, key.export_private_key(), 0o600)
        return _line(key)

    def exists(self, name: str) -> bool:
        """Whether there is a key of this name."""
        return self._files(name)[0].exists()

    def private(self, name: str) -> asyncssh.SSHKey:
        """Return the key. Raises NotFound."""
        try:
            return asyncssh.import_private_key(self._files(name)[0].read_bytes())
        except FileNotFoundError as error:
            raise NotFound(f"There is no key {name!r} in {self.path}.") from error

    def public(self, name: str) -> str:
        """Return the public line of the key. Raises NotFound."""
        return _line(self.private(name))

    def ensure(self, name: str, comment: str = "") -> asyncssh.SSHKey:
        """Return the key, made now when there is none."""
        with contextlib.suppress(Conflict):
            if not self.exists(name):
                self.generate(name, comment)
        return self.private(name)

    def remove(self, name: str) -> None:
        """Remove the key. Removing what is not there succeeds."""
        private, public = self._files(name)
        if self.path.is_dir():
            with self._locked():
                private.unlink(missing_ok=True)
                public.unlink(missing_ok=True)

    def _files(self, name: str) -> tuple[Path, Path]:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            raise InvalidRequest(
                f"{name!r} is no name for a key.", remedy="Use letters, digits, '_' and '-'."
            )
        return self.path / name, self.path / f"{name}.pub"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o700)
        with FileLock(self.path / ".lock", mode=0o600):
            yield


def add_authorized_key(path: Path, line: str) -> None:
    """Add one line to an authorized_keys file of our own account; it is made when not there.

    Adding a line twice adds it once. Raises InvalidRequest when it is not one line with a public key.
    """
    wanted = line.strip()
    if not wanted.isprintable():
        raise InvalidRequest("A line of authorized_keys is one line of printable text.")
    check_authorized_key(wanted)
    if not wanted or wanted.startswith("#"):
        raise InvalidRequest("A line of authorized_keys holds a public key.")
    _edit(path, lambda lines: lines if wanted in map(str.strip, lines) else [*lines, wanted + "\n"])


def remove_authorized_key(path: Path, line: str) -> None:
    """Remove that line, and no other, from an authorized_keys file. Removing what is not there succeeds."""
    wanted = line.strip()
    if path.exists():
        _edit(path, lambda lines: [one for one in lines if one.strip() != wanted])


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that whoever reads it sees all of the old or all of the new one."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(path.with_name(path.name + ".lock"), mode=0o600):
        target = path.resolve()
        try:
            text, mode = (
                target.read_text(encoding="utf-8", errors="surrogateescape"),
                target.stat().st_mode & 0o777,
            )
        except FileNotFoundError:
            text, mode = "", 0o600
        before = text.splitlines(keepends=True)
        if before and not before[-1].endswith("\n"):
            before[-1] += "\n"
        after = change(before)
        if after != before:
            write_whole(target, "".join(after).encode("utf-8", errors="surrogateescape"), mode)


def _line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()
