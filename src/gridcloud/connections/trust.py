"""Whom to believe: host keys are pinned in the address or vouched for by an authority named there, and nothing else.

No file of the machine or the user is read (``known_hosts``, ``ssh_config``), and an unknown key is never accepted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import asyncssh

from gridcloud.connections.model import SSHAddress
from gridcloud.errors import InvalidRequest, InvalidSettings, Untrusted
from gridcloud.identity.public_keys import read_public_key

__all__ = ["Witness", "host_key_kinds", "known_hosts", "understood", "untrusted"]

_ED25519 = ["ssh-ed25519"]
_ECDSA = ["ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"]
_RSA = ["rsa-sha2-512", "rsa-sha2-256"]
_KINDS = [*_ED25519, *_ECDSA, *_RSA]
_CERTIFIED = [f"{kind}-cert-v01@openssh.com" for kind in _KINDS]

KnownHosts = tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]


class Witness(asyncssh.SSHClient):
    """Remembers the key that a host showed and that was not believed, so that the refusal can name it."""

    def __init__(self) -> None:
        self.seen: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that is not pinned: never believed."""
        self.seen = key
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for an authority that is not named in the address: never believed."""
        self.seen = key
        return False


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Open an SSH connection within: what the other side says can make asyncssh raise anything (ValueError,
    OverflowError, UnicodeDecodeError); outside it is asyncssh.Error or OSError, its words on one line."""
    try:
        yield
    except OSError:
        raise
    except asyncssh.Error as error:
        error.reason = _plain(error.reason)
        error.args = (error.reason,)
        raise
    except Exception as error:  # see above
        raise asyncssh.ProtocolError(_plain(f"it speaks no SSH that we know: {error}")) from error


def known_hosts(address: SSHAddress) -> KnownHosts:
    """Return what asyncssh compares a host with. Raises Untrusted when nothing is pinned, InvalidSettings."""
    if not address.host_keys and not address.host_authorities:
        raise Untrusted(
            f"No host key is pinned for {address.host}:{address.port}, so nobody can tell whether it is that machine.",
            remedy=(
                f"Run `ssh-keyscan -p {address.port} {address.host}`, compare the fingerprint with the one the machine"
                " shows on its console (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), and put the line into"
                " host_keys, or name the authority that signs its host certificate in host_authorities."
            ),
        )
    return (
        [_read(address, line) for line in address.host_keys],
        [_read(address, line) for line in address.host_authorities],
        [],
    )


def host_key_kinds(address: SSHAddress) -> list[str]:
    """Return the kinds of host keys to ask for: first those that were pinned, for a host has several keys, then
    the others, so that a host that has none of them shows what it has instead."""
    pinned = {_kind(key) for key in known_hosts(address)[0]}
    wanted = [kind for kind in _KINDS if kind in pinned or (kind in _RSA and "ssh-rsa" in pinned)]
    others = [kind for kind in _KINDS if kind not in wanted]
    return (_CERTIFIED if address.host_authorities else []) + wanted + others


def untrusted(address: SSHAddress, seen: asyncssh.SSHKey | None, cause: str) -> Untrusted:
    """Return the refusal that names the host, what was expected and what was seen."""
    keys, authorities, _ = known_hosts(address)
    expected = [f"{_kind(key)} {key.get_fingerprint()}" for key in keys]
    expected += [f"a certificate by {_kind(key)} {key.get_fingerprint()}" for key in authorities]
    shown = f"{_kind(seen)} {seen.get_fingerprint()}" if seen is not None else f"none of these ({cause})"
    return Untrusted(
        f"HOST KEY MISMATCH: {address.host}:{address.port} is not the machine that was pinned, or somebody is in"
        f" between. Expected {' or '.join(expected)}; it showed {shown}. Nothing was sent to it.",
        remedy="If the machine was reinstalled, compare its new key on its console and pin that one.",
        details={"host": address.host, "port": address.port, "expected": expected, "seen": shown},
    )


def _read(address: SSHAddress, line: str) -> asyncssh.SSHKey:
    try:
        return read_public_key(line)
    except InvalidRequest as error:
        raise InvalidSettings(
            f"{line[:60]!r} is no public key of {address.host}: {error.message}",
            remedy="Write host keys as in a .pub file: 'ssh-ed25519 AAAA…'.",
        ) from error


def _plain(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)[:300]


def _kind(key: asyncssh.SSHKey) -> str:
    return key.get_algorithm()
