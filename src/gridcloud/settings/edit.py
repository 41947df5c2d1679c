"""Change the configuration file: one writer at a time, whole or not at all, and only to what is valid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gridcloud.errors import Conflict, GridcloudError, NotFound
from gridcloud.settings.entries import read_value, with_value, without_value
from gridcloud.settings.reading import parse_settings, provider_settings

__all__ = [
    "add_provider",
    "locked",
    "read_text",
    "remove_provider",
    "with_provider",
    "without_provider",
    "write_text",
]


def add_provider(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Write a provider's entry into the file, which is made when it is not there. See `with_provider`.

    Raises Conflict when there is one of this name, InvalidSettings or DriverUnavailable when the entry or the file
    would not be valid; the file is left alone then.
    """
    provider_settings(name, entry)
    with locked(path):
        _write_valid(path, with_provider(_read_valid(path), name, entry))


def remove_provider(path: Path, name: str) -> None:
    """Take a provider's entry out of the file. Raises NotFound, or InvalidSettings when the file is not valid."""
    with locked(path):
        _write_valid(path, without_provider(_read_valid(path), name))


def with_provider(text: str, name: str, entry: dict[str, Any]) -> str:
    """Return the text with a provider more. Raises Conflict when there is one of this name, InvalidSettings.

    Where there is none yet, this computer (``local``) counts as the only one: its entry is written too, so that adding
    a provider takes none away.
    """
    providers = read_value(text, ("providers",)) or {}
    if name in providers:
        raise Conflict(
            f"There is a provider {name!r} already.", remedy="Remove it first, or take another name."
        )
    if not providers and name != "local":
        text = with_value(text, ("providers", "local"), {"driver": "local"})
    return with_value(text, ("providers", name), entry)


def without_provider(text: str, name: str) -> str:
    """Return the text without a provider. Raises NotFound, InvalidSettings."""
    providers = read_value(text, ("providers",)) or {}
    if name not in providers:
        known = ", ".join(providers) or "none"
        raise NotFound(f"The configuration has no provider {name!r} (it has: {known}).")
    return without_value(text, ("providers", name))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file between our reading and our writing it, by a lock on its folder."""
    folder = path.resolve().parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GridcloudError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """Return the file's text, empty where there is none. Raises GridcloudError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise GridcloudError(f"{path} cannot be read: {error}.") from error


def write_text(path: Path, text: str) -> None:
    """Put a text in the place of the file's, at once. It stays whose it was, and is its owner's alone."""
    target = path.resolve()  # a link stays a link
    try:
        descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    before = target.stat()
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise GridcloudError(f"{path} cannot be written: {error.strerror}.") from error


def _read_valid(path: Path) -> str:
    text = read_text(path)
    parse_settings(text, str(path), {})
    return text


def _write_valid(path: Path, text: str) -> None:
    parse_settings(text, str(path), {})
    write_text(path, text)
