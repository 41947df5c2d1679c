"""Our private keys on disk: the root key, which may be taken away, and the service keys; readable by nobody else."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gridcloud.errors import Conflict, Forbidden, InvalidRequest, NotFound, Untrusted
from gridcloud.federation.keys import PrivateKey, institution_of
from gridcloud.identity import Secret

__all__ = ["Keyring", "read_pem", "write_pem"]

ROOT = "root.pem"


class Keyring:
    """The keys in a folder (0700, made when the first is kept). Its methods touch the disk: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def has_root(self) -> bool:
        """Whether the root key is here."""
        return (self._folder / ROOT).exists()

    def make_root(self) -> PrivateKey:
        """Make and keep a root key; the one that is here when there is one."""
        if self.has_root:
            return _read(self._folder / ROOT)
        key = PrivateKey.generate()
        self._keep(ROOT, key)
        return key

    def root(self, institution: str, given: Secret | None = None) -> PrivateKey:
        """Return the root key of an institution, ours: the one that is given, in PEM, or the one that is here.

        Raises Forbidden when it is kept elsewhere and not given, Untrusted when it is somebody else's.
        """
        if given is None and not self.has_root:
            raise Forbidden(
                "The root key is not on this computer.",
                remedy="Give the file that it was taken out to (--root).",
            )
        key = read_pem(given) if given is not None else _read(self._folder / ROOT)
        if institution_of(key.public) != institution:
            raise Untrusted(f"This root key is of {institution_of(key.public)}, not of {institution}.")
        return key

    def take_root_out(self) -> Secret:
        """Return the root key in PEM; it is still here until `drop_root`. Raises Conflict when it is not here."""
        if not self.has_root:
            raise Conflict("The root key was taken out before.")
        return write_pem(_read(self._folder / ROOT))

    def drop_root(self) -> None:
        """Keep the root key no more."""
        (self._folder / ROOT).unlink(missing_ok=True)
        self._sync()

    def keep_service_key(self, key: PrivateKey) -> None:
        """Keep a service key."""
        self._keep(f"service-{key.public}.pem", key)

    def service_key(self, public: str) -> PrivateKey:
        """Return a service key by its public half. Raises NotFound, Forbidden."""
        return _read(self._folder / f"service-{_checked(public)}.pem")

    def service_keys(self) -> list[str]:
        """Return the public halves of the service keys that are here."""
        return sorted(path.stem.removeprefix("service-") for path in self._folder.glob("service-*.pem"))

    def drop_all_but(self, kept: Collection[str]) -> None:
        """Keep only the service keys with these public halves."""
        for public in set(self.service_keys()) - set(kept):
            (self._folder / f"service-{public}.pem").unlink(missing_ok=True)

    def _keep(self, name: str, key: PrivateKey) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        there = self._folder / f".{name}.new"
        with contextlib.suppress(FileNotFoundError):
            there.unlink()
        # Made for nobody else, and on disk before anybody is told of it.
        descriptor = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(write_pem(key).reveal_bytes())
            file.flush()
            os.fsync(file.fileno())
        there.rename(self._folder / name)
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_pem(key: PrivateKey) -> Secret:
    """Return a private key as PKCS #8 in PEM."""
    raw = Ed25519PrivateKey.from_private_bytes(key.secret())
    return Secret(raw.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def read_pem(text: Secret) -> PrivateKey:
    """Return the private key in a PEM; raises InvalidRequest when it holds no Ed25519 key."""
    try:
        key = load_pem_private_key(text.reveal_bytes(), None)
    except (ValueError, TypeError) as error:
        raise InvalidRequest("This file holds no private key in PEM, or one behind a password.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest("This is a private key, but no Ed25519 key.")
    return PrivateKey(key.private_bytes_raw())


def _read(path: Path) -> PrivateKey:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Forbidden(
                    f"{path} may be read by others than its owner.",
                    remedy=f"chmod 600 {path}, and rotate the key.",
                )
            return read_pem(Secret(file.read(1 << 16)))
    except FileNotFoundError:
        raise NotFound(f"The key {path} is not there.") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error.message}") from error


def _checked(public: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", public):
        raise InvalidRequest(f"{public!r:.60} is no public key: 43 letters, digits, - and _.")
    return public
