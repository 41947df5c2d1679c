"""The secrets of links: the text in the link itself, passwords, codes of a second factor."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
import string
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor import InvalidToken
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from gridcloud.errors import InvalidRequest

__all__ = [
    "ALPHABET",
    "LONGEST",
    "PREFIX",
    "SHORTEST",
    "Codes",
    "digest",
    "hash_password",
    "is_secret",
    "new_secret",
    "right_password",
    "signature",
]

PREFIX = "share-"
"""What ids of shares begin with."""

ALPHABET = string.digits + string.ascii_letters
"""62 characters, 5.95 bits each."""

SHORTEST = 10
"""Characters of a link's secret: 59 bits. At the ten guesses an hour and address that are borne, nobody finds one."""

USUAL = 22
"""131 bits."""

LONGEST = 64

PERIOD = 30
"""Seconds that a code is good (RFC 6238)."""

DIGITS = 6


def new_secret(length: int = USUAL) -> str:
    """Return a new secret for a link. Raises InvalidRequest for one that is too short or too long."""
    if not SHORTEST <= length <= LONGEST:
        bits = math.floor(SHORTEST * math.log2(len(ALPHABET)))
        raise InvalidRequest(
            f"A link has {SHORTEST} characters ({bits} bits) at least and {LONGEST} at most."
        )
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def is_secret(text: str) -> bool:
    """Tell whether a text could be a link's secret at all."""
    return SHORTEST <= len(text) <= LONGEST and text.isascii() and text.isalnum()


def digest(key: bytes, secret: str) -> str:
    """Return the id of the share that a secret leads to.

    It is looked up by this, and never compared with the secret: how long that takes tells nothing without the key.
    """
    found = hmac.digest(key, secret.encode(), hashlib.sha256)
    return f"{PREFIX}{base64.b32encode(found[:20]).decode().lower()}"


def signature(key: bytes, share_id: str, password: str, expires: int, path: bytes) -> str:
    """Return what proves that a share's owner lets a file be read until ``expires``, in seconds since 1970.

    ``password``: the hash of the share's, so that a change of that ends what was signed before.
    """
    text = b"\0".join((b"signed file", share_id.encode(), password.encode(), str(expires).encode(), path))
    return base64.urlsafe_b64encode(hmac.digest(key, text, hashlib.sha256)).decode().rstrip("=")


def hash_password(password: str) -> str:
    """Return what to keep of a password (argon2id). Takes some 50 ms."""
    if not password or len(password) > 1024 or "\0" in password:
        raise InvalidRequest("A password has 1 to 1024 characters, and no NUL.")
    return _hasher.hash(password)


def right_password(kept: str, password: str) -> bool:
    """Tell whether that is the password. Takes some 50 ms, right or wrong."""
    try:
        return _hasher.verify(kept, password[:1024])
    except (VerificationError, InvalidHashError):
        return False


@dataclass(frozen=True, slots=True)
class Codes:
    """The second factor of one share, as any authenticator app has it (RFC 6238: SHA-1, 6 digits, 30 s)."""

    key: bytes

    @classmethod
    def new(cls) -> Codes:
        """Return one with a new key."""
        return cls(secrets.token_bytes(20))

    def at(self, now: float) -> str:
        """Return the code of a time, in seconds since 1970."""
        return _totp(self.key).generate(int(now)).decode()

    def step_of(self, code: str, now: float) -> int | None:
        """Return the step of time that a code belongs to, one off at most; None where it is wrong."""
        if len(code) != DIGITS or not (code.isascii() and code.isdigit()):
            return None
        found = None
        for step in range(int(now) // PERIOD - 1, int(now) // PERIOD + 2):
            try:
                _totp(self.key).verify(code.encode(), step * PERIOD)
                found = step
            except InvalidToken:
                continue
        return found

    def uri(self, name: str) -> str:
        """Return the ``otpauth://`` URI to show as a QR code."""
        return _totp(self.key).get_provisioning_uri(name, "gridcloud")


def _totp(key: bytes) -> TOTP:
    return TOTP(key, DIGITS, SHA1(), PERIOD)  # noqa: S303 - what authenticator apps speak; HMAC-SHA-1 is not broken


_hasher = PasswordHasher()
"""RFC 9106's second choice: 64 MiB, 3 passes, 4 lanes."""
