"""Key revocation lists as OpenSSH reads them (its PROTOCOL.krl), for sshd's ``RevokedKeys``."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["encode_revocations"]

MAGIC = 0x5353484B524C0A00
"""``SSHKRL`` and two bytes that show a file damaged on its way."""
CERTIFICATES, SERIALS = b"\x01", b"\x20"


def encode_revocations(authorities: Iterable[bytes], serials: Iterable[int], generated: int) -> bytes:
    """Return a list that revokes the serials (64 bits, not 0) for each authority (a public key blob).

    ``generated`` is the time in seconds since 1970; it is also the list's version.
    """
    head = (
        _number(MAGIC, 8)
        + _number(1, 4)
        + _number(generated, 8) * 2
        + _number(0, 8)
        + _text(b"")
        + _text(b"")
    )
    listed = SERIALS + _text(b"".join(_number(serial, 8) for serial in sorted(set(serials))))
    empty = len(listed) == 5
    return head + b"".join(
        CERTIFICATES + _text(_text(authority) + _text(b"") + (b"" if empty else listed))
        for authority in authorities
    )


def _number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _text(value: bytes) -> bytes:
    return _number(len(value), 4) + value
