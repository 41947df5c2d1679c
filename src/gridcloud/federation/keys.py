"""Who an institution is: a root key, whose fingerprint is its id, and service keys that the root key vouches for.

The root key signs rarely (its own key list, member lists) and may be kept offline; what runs day and night signs with a
service key. The key list is the one document that says which service keys are good: it has a serial, and a higher one
replaces a lower. Signatures are Ed25519 (RFC 8032) over `gridcloud:<context>:1`, a line feed, and the canonical bytes
of the document without its `signature`: what was signed as one thing is never taken for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from gridcloud.errors import (
    Expired,
    Forged,
    Forked,
    InvalidRequest,
    Malformed,
    Revoked,
    UnknownSigner,
    WrongVersion,
)
from gridcloud.federation.encoding import Json, encode, from_text, to_text
from gridcloud.federation.model import PROTOCOL, Count, Document, Key, Signature, Time, Version

__all__ = [
    "KeyList",
    "PrivateKey",
    "RevokedKey",
    "ServiceKey",
    "check_service_key",
    "heard",
    "institution_of",
    "make_key_list",
    "newer_key_list",
    "read_key_list",
    "require_version",
    "revoke_service_key",
    "rotate_service_key",
    "spoken",
    "unsigned",
    "verify",
]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32, as in `gridcloud.clock`."""
_CHECK = 61
"""Spoken digits are a multiple of this prime: one wrong digit, or two swapped neighbours, never are."""
_SMALL_ORDER = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)
"""Points of order 8 or less, sign bit cleared: under such a key anybody's signature holds, so it proves nothing."""


class PrivateKey:
    """A private Ed25519 key, a root's or a service's; it never shows itself."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Take the 32 secret bytes; raises ValueError for another number of them."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = to_text(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> PrivateKey:
        """Return a new key that nobody can guess."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def secret(self) -> bytes:
        """Return the 32 secret bytes, for whoever stores the key."""
        return self._key.private_bytes_raw()

    def sign(self, context: str, document: Mapping[str, Any]) -> str:
        """Return the signature of a document (which holds none yet) as a thing of the kind `context`."""
        return to_text(self._key.sign(_signed_bytes(context, document)))

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public!r})"


class ServiceKey(Document):
    """A key that an institution's service signs with, and from when until when."""

    key: Key
    valid_from: Time
    valid_until: Time


class RevokedKey(Document):
    """A service key that is no longer good, whatever its dates say."""

    key: Key
    since: Time


class KeyList(Document):
    """The service keys of one institution, signed by its root key."""

    version: Version
    type: Literal["keys"]
    root: Key
    serial: Count
    issued: Time
    keys: tuple[ServiceKey, ...] = Field(max_length=16)
    revoked: tuple[RevokedKey, ...] = Field(max_length=256)
    signature: Signature

    @property
    def institution(self) -> str:
        """Whose it is."""
        return institution_of(self.root)


@lru_cache(8192)
def institution_of(root: str) -> str:
    """Return the id of the institution whose root key this is: 160 bits of SHA-256 in Crockford's base 32.

    Raises Malformed when it is no key.
    """
    raw = hashlib.sha256(b"gridcloud:institution:1\n" + from_text(root, 32)).digest()[:20]
    number = int.from_bytes(raw, "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(32)))


def spoken(institution: str) -> str:
    """Return the id as ten groups of five digits to be read over the telephone; nothing of it is left out."""
    number = 0
    for letter in institution:
        number = number * 32 + _ALPHABET.index(letter)
    digits = f"{number * _CHECK:050d}"
    return " ".join(digits[start : start + 5] for start in range(0, 50, 5))


def heard(text: str) -> str:
    """Return the institution whose digits were typed; spaces and dashes do not matter.

    Raises InvalidRequest when they are not 50 digits or one is wrong.
    """
    digits = "".join(text.split()).replace("-", "")
    if len(digits) != 50 or not (digits.isascii() and digits.isdigit()):
        raise InvalidRequest(
            f"a fingerprint has 50 digits in ten groups, and {len(digits)} characters were given"
        )
    number, rest = divmod(int(digits), _CHECK)
    if rest or number >= 1 << 160:
        raise InvalidRequest("a digit of the fingerprint is wrong", remedy="Have it read to you again.")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(32)))


def unsigned(document: Mapping[str, Any]) -> Json:
    """Return a document without `signature` and `signatures`: what is signed."""
    return {key: value for key, value in document.items() if key not in {"signature", "signatures"}}


def verify(key: str, signature: str, context: str, document: Mapping[str, Any]) -> None:
    """Return when `signature` is that of `key` over the document as a thing of the kind `context`; raises Forged."""
    raw = from_text(key, 32)
    if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
        raise Forged(f"the key {key[:8]}… is one that anybody can sign for")
    try:
        public = Ed25519PublicKey.from_public_bytes(raw)
        public.verify(from_text(signature, 64), _signed_bytes(context, unsigned(document)))
    except (InvalidSignature, ValueError) as error:
        raise Forged(
            f"the signature is not that of the key {key[:8]}…: forged, or changed on the way"
        ) from error


def make_key_list(
    root: PrivateKey,
    serial: int,
    issued: int,
    keys: tuple[ServiceKey, ...],
    revoked: tuple[RevokedKey, ...] = (),
) -> KeyList:
    """Return a signed key list; `issued` in milliseconds."""
    document = {
        "version": PROTOCOL,
        "type": "keys",
        "root": root.public,
        "serial": serial,
        "issued": issued,
        "keys": [key.document() for key in keys],
        "revoked": [key.document() for key in revoked],
    }
    return KeyList.of(document | {"signature": root.sign("keys", document)})


def read_key_list(document: Mapping[str, Any], institution: str = "") -> KeyList:
    """Return the key list in a document once its signature holds; `institution`: whose it must be, anybody's if empty.

    Raises WrongVersion, Malformed, Forged; UnknownSigner when it is somebody else's.
    """
    require_version(document)
    found = KeyList.of(document)
    if institution and found.institution != institution:
        raise UnknownSigner(f"this key list is of {found.institution}, not of {institution}")
    verify(found.root, found.signature, "keys", document)
    return found


def newer_key_list(held: KeyList | None, offered: KeyList) -> KeyList:
    """Return which of two true key lists of one institution is in force: that with the higher serial.

    Raises UnknownSigner when they are of different institutions, Forked when they have one serial and differ, Revoked
    when the newer one takes back a revocation: a key that was revoked never comes back.
    """
    if held is None or held == offered:
        return offered
    if held.root != offered.root:
        raise UnknownSigner(f"this key list is of {offered.institution}, not of {held.institution}")
    if held.serial == offered.serial:
        raise Forked(f"{held.institution} signed two different key lists with the serial {held.serial}")
    old, new = (held, offered) if held.serial < offered.serial else (offered, held)
    back = {key.key for key in old.revoked} - {key.key for key in new.revoked}
    if back:
        raise Revoked(f"{held.institution} takes back that the key {min(back)[:8]}… was revoked")
    return new


def check_service_key(keys: KeyList, key: str, now: int) -> None:
    """Return when `key` is good at `now` (milliseconds); raises Revoked, UnknownSigner or Expired."""
    if any(one.key == key for one in keys.revoked):
        raise Revoked(f"the key {key[:8]}… of {keys.institution} was revoked")
    spans = [one for one in keys.keys if one.key == key]
    if not spans:
        raise UnknownSigner(f"{key[:8]}… is not a key of {keys.institution}")
    if not any(one.valid_from <= now < one.valid_until for one in spans):
        ahead = min(one.valid_from for one in spans) - now
        when = f"from {ahead // 1000} s on: is a clock wrong?" if ahead > 0 else "no more"
        raise Expired(f"the key {key[:8]}… of {keys.institution} is valid {when}")


def rotate_service_key(
    root: PrivateKey, held: KeyList, key: str, now: int, span: int, overlap: int
) -> KeyList:
    """Return a key list with the new `key`, good for `span`; those before it stay good for `overlap` (milliseconds)."""
    kept = tuple(
        one.model_copy(update={"valid_until": min(one.valid_until, now + overlap)})
        for one in held.keys
        if one.valid_until > now and one.key != key
    )
    new = ServiceKey(key=key, valid_from=now, valid_until=now + span)
    return make_key_list(root, held.serial + 1, now, (*kept, new), held.revoked)


def revoke_service_key(root: PrivateKey, held: KeyList, key: str, now: int) -> KeyList:
    """Return a key list that revokes `key` at once."""
    kept = tuple(one for one in held.keys if one.key != key)
    already = any(one.key == key for one in held.revoked)
    revoked = held.revoked if already else (*held.revoked, RevokedKey(key=key, since=now))
    return make_key_list(root, held.serial + 1, now, kept, revoked)


def require_version(document: Mapping[str, Any], spoken_here: frozenset[int] = frozenset({PROTOCOL})) -> int:
    """Return the version of a document; raises Malformed when it has none, WrongVersion when it is not spoken here."""
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise Malformed("the document does not say its version")
    if version not in spoken_here:
        ours = ", ".join(str(one) for one in sorted(spoken_here))
        raise WrongVersion(f"the document is in version {version} of the protocol, and {ours} is spoken here")
    return version


def _signed_bytes(context: str, document: Mapping[str, Any]) -> bytes:
    return f"gridcloud:{context}:{PROTOCOL}\n".encode("ascii") + encode(document)
