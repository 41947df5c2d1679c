"""Invitations of machines: a token for one machine, used once, and the proofs that it is used by who has it.

A token reads ``gca_<id>_<secret>_<fingerprint>``. The secret is the seed of an Ed25519 key of which we keep the public
half, and never crosses the network: the machine signs its request to join with it and with its own host key. So neither
what reads our store nor what opens the TLS in between can join with it, or put another key in place of the machine's.
The fingerprint is that of our user authority: the machine knows by it whom it has joined.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass

import asyncssh
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gridcloud.errors import InvalidRequest, NotAuthenticated, Untrusted
from gridcloud.identity.credentials import Secret
from gridcloud.identity.public_keys import read_public_key

__all__ = ["Token", "fingerprint", "key_of", "make_token", "prove", "read_token", "verify"]

SEED = 32
"""Bytes of a secret."""
PATTERN = re.compile(r"gca_([0-9a-z]{19})_([A-Za-z0-9_-]{43})_([A-Za-z0-9_-]{43})", re.ASCII)
PURPOSE = b"gridcloud-agent-join-1"
"""What is signed begins with this, so that the signature is of no use elsewhere."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token's text says."""

    id: str
    secret: Secret
    authority: str
    """Fingerprint of the user authority of who invites."""


def make_token(id: str, authority: str) -> tuple[Secret, str]:
    """Return the text of a new token, to show once, and its public key to keep. ``authority``: a public key line."""
    seed = secrets.token_bytes(SEED)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return Secret(f"gca_{id.removeprefix('v-')}_{_text(seed)}_{fingerprint(authority)}"), _public(key)


def read_token(text: str) -> Token:
    """Return what a token says. Raises NotAuthenticated for what is none; its text is not repeated."""
    match = PATTERN.fullmatch(text.strip())
    if not match:
        raise NotAuthenticated(
            "This is no token of an agent.",
            remedy="It begins with gca_ and is shown once by: gridcloud agent invite NAME",
        )
    return Token(f"v-{match[1]}", Secret(_bytes(match[2])), match[3])


def fingerprint(line: str) -> str:
    """Return the fingerprint of a public key line: SHA-256 of its key, 43 characters of base64 for URLs."""
    return _text(hashlib.sha256(_key(line).public_data).digest())


def prove(token: Token, host_key: asyncssh.SSHKey) -> tuple[str, str]:
    """Return the signatures, in hexadecimal, by the token and by the machine's own key, of a request to join."""
    line = host_key.export_public_key().decode()
    said = _request(token.id, token.authority, line)
    key = Ed25519PrivateKey.from_private_bytes(token.secret.reveal_bytes())
    return key.sign(said).hex(), host_key.sign(said, b"ssh-ed25519").hex()


def verify(id: str, authority: str, line: str, token_key: str, proofs: tuple[str, str]) -> None:
    """Check both signatures of a request to join us, whose user authority has the line ``authority``.

    Raises NotAuthenticated when it was not made with the token, Untrusted when not with the machine's key.
    """
    said = _request(id, fingerprint(authority), line)
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(token_key)).verify(bytes.fromhex(proofs[0]), said)
    except (InvalidSignature, ValueError):
        raise NotAuthenticated(
            "The token is unknown, used or expired.", remedy="Ask for a new invitation."
        ) from None
    try:
        known = _key(line).verify(said, bytes.fromhex(proofs[1]))
    except ValueError:
        known = False
    if not known:
        raise Untrusted("The machine does not prove that the key is its own.", remedy="Join again.")


def key_of(line: str) -> str:
    """Return a machine's public key line without its comment. Raises Untrusted for another kind than ed25519."""
    key = _key(line)
    if key.get_algorithm() != "ssh-ed25519":
        raise Untrusted("A machine's key is an ed25519 key.")
    return " ".join(key.export_public_key().decode().split()[:2])


def _request(id: str, authority: str, line: str) -> bytes:
    return b"\n".join([PURPOSE, id.encode(), authority.encode(), key_of(line).encode()])


def _key(line: str) -> asyncssh.SSHKey:
    try:
        return read_public_key(line)
    except InvalidRequest as error:
        raise Untrusted("This is no public key line.") from error


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
