"""Host keys as the `ssh` provider's settings give them: public key lines, fingerprints and known_hosts files."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from pathlib import Path

from gridcloud.errors import InvalidSettings

__all__ = ["fingerprint", "is_public_key", "read_known_hosts"]


def fingerprint(line: str) -> str:
    """Return a public key line's fingerprint as ssh-keygen -l prints it."""
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def read_known_hosts(path: Path, host: str, port: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the host keys and the authorities that a known_hosts file gives for a host, its revoked keys left out.

    Raises InvalidSettings when the file cannot be read or has a line that is not of its format (sshd(8)).
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"known_hosts: {path} cannot be read: {error}") from error
    found: dict[str, list[str]] = {"": [], "@cert-authority": [], "@revoked": []}
    place = host if port == 22 else f"[{host}]:{port}"
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        mark = words.pop(0) if words[0].startswith("@") else ""
        if mark not in found or len(words) < 3 or not is_public_key(" ".join(words[1:3])):
            raise InvalidSettings(f"known_hosts: line {number} of {path} is not of the format of sshd(8).")
        try:
            named = _names(words[0], place)
        except binascii.Error as error:
            raise InvalidSettings(f"known_hosts: line {number} of {path} has no hashed name.") from error
        if named:
            found[mark].append(" ".join(words[1:3]))
    revoked = set(found["@revoked"])
    keys, authorities = (
        tuple(key for key in found[mark] if key not in revoked) for mark in ("", "@cert-authority")
    )
    return keys, authorities


def is_public_key(line: str) -> bool:
    """Return whether a text is a public key line whose data are of the type it says."""
    words = line.split()
    if len(words) < 2 or "\n" in line or not re.fullmatch(r"[a-z][a-z0-9@.-]+", words[0]):
        return False
    try:
        data = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        return False
    return data.startswith(len(words[0]).to_bytes(4, "big") + words[0].encode())


def _names(patterns: str, place: str) -> bool:
    if patterns.startswith("|1|"):
        salt, _, digest = patterns[3:].partition("|")
        # The format's own hash: it hides names, and proves nothing.
        return hmac.digest(base64.b64decode(salt), place.encode(), "sha1") == base64.b64decode(digest)
    matched = False
    for pattern in patterns.split(","):
        regex = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(regex, place, re.IGNORECASE):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched
