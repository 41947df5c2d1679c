"""Secrets by reference: ``file:PATH``, ``env:NAME``, ``keyring:SERVICE/USER``. Read when needed, never copied."""

from __future__ import annotations

import hmac
import importlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from gridcloud.errors import DriverUnavailable, Forbidden, InvalidSettings, NotFound, Unavailable

__all__ = ["Secret", "resolve"]

FORMS = "file:PATH, env:NAME, keyring:SERVICE/USER or, for SSH keys, agent:"
LARGEST = 1024 * 1024


class Secret:
    """Bytes that show themselves only to who asks by `reveal`: not in logs, messages, traces or pickles."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> str:
        """The secret as text. Raises UnicodeDecodeError when it is none."""
        return self._value.decode()

    def reveal_bytes(self) -> bytes:
        """The secret as it is."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be copied")


def resolve(reference: str, environment: Mapping[str, str] = os.environ) -> Secret:
    """Return the secret that is referred to.

    Raises NotFound when it is not there, Forbidden when a file may be read by others or not by us, InvalidSettings for
    what is no reference, DriverUnavailable and Unavailable when the keyring cannot be used.
    """
    form, colon, rest = reference.partition(":")
    if form == "file" and rest:
        return _read_file(rest)
    if form == "env" and rest:
        if rest not in environment:
            raise NotFound(
                f"The environment variable {rest} is not set.", remedy="Set it where gridcloud starts."
            )
        return Secret(environment[rest])
    if form == "keyring" and "/" in rest:
        return _read_keyring(*rest.split("/", 1))
    if form == "agent":
        raise InvalidSettings(
            "An SSH agent signs, but gives no secret away.", remedy=f"Use another of: {FORMS}."
        )
    # What was given may be the secret itself, so that it is not repeated.
    known = f" (it starts with {form!r})" if colon and form in ("file", "env", "keyring") else ""
    raise InvalidSettings(f"This is no reference to a secret{known}.", remedy=f"Write {FORMS}.")


def _read_file(given: str) -> Secret:
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise InvalidSettings(f"The reference file:{given} is relative.", remedy="Write the whole path.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NotFound(f"The file {path} is not there.", remedy="Make it, or refer to another.") from error
    except OSError as error:
        raise Forbidden(f"The file {path} cannot be read: {error.strerror}.") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise Forbidden(f"{path} is no file with a secret.")
        if found.st_uid not in (os.geteuid(), 0):
            raise Forbidden(
                f"The file {path} belongs to somebody else.", remedy=f"Run: chown {os.geteuid()} {path}"
            )
        if found.st_mode & 0o077:
            raise Forbidden(f"The file {path} can be read by others.", remedy=f"Run: chmod 600 {path}")
        return Secret(os.read(descriptor, LARGEST))
    finally:
        os.close(descriptor)


def _read_keyring(service: str, user: str) -> Secret:
    try:
        keyring: Any = importlib.import_module("keyring")
    except ImportError as error:
        raise DriverUnavailable(
            "A secret is kept in the keyring, but the library keyring is not installed.",
            remedy="Run: pip install keyring",
        ) from error
    try:
        found = keyring.get_password(service, user)
    except Exception as error:  # each of its backends has errors of its own
        raise Unavailable(f"The keyring cannot be read: {type(error).__name__}: {error}.") from error
    if found is None:
        raise NotFound(
            f"The keyring has nothing for {service}/{user}.", remedy=f"Run: keyring set {service} {user}"
        )
    return Secret(found)
