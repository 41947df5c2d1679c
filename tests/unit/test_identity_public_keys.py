"""Public keys that others wrote: whatever is wrong with one, the error is one of ours."""

from __future__ import annotations

import base64
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gridcloud.agents import invitations
from gridcloud.clock import ManualClock
from gridcloud.connections.model import SSHAddress
from gridcloud.connections.trust import known_hosts
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings, Untrusted
from gridcloud.identity.authority import Authority
from gridcloud.identity.handover import Handover, leads
from gridcloud.identity.keys import add_authorized_key
from gridcloud.identity.public_keys import LONGEST, check_authorized_key, read_public_key


def _line(kind: str, *parts: bytes) -> str:
    """Return a public key line whose key has these parts, whatever they mean to its kind."""
    whole = b"".join(struct.pack(">I", len(part)) + part for part in (kind.encode(), *parts))
    return f"{kind} {base64.b64encode(whole).decode()}"


NEGATIVE = _line("ssh-rsa", b"\x01\x00\x01", b"\xff" * 256)
"""An RSA key whose modulus is below nought: what reads it fails with an OverflowError."""
HOSTILE = {
    "negative modulus": NEGATIVE,
    "negative exponent": _line("ssh-rsa", b"\xff", b"\x00" + b"\xff" * 256),
    "no curve": _line("ecdsa-sha2-nistp256", b"\x7f" * 32, b"\x04" + b"\x01" * 64),
    "no text": _line("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\x04" + b"\x01" * 64, b"\xff" * 9),
    "short": _line("ssh-ed25519", b"\x01" * 31),
    "empty": "",
    "long": "ssh-rsa " + "A" * LONGEST,
}


@pytest.mark.parametrize("line", HOSTILE.values(), ids=HOSTILE)
def test_who_is_given_a_hostile_key_says_so(line: str, tmp_path: Path) -> None:
    """At each place that takes a key of somebody else: the error that it promises, and no other."""
    with pytest.raises(InvalidRequest):
        read_public_key(line)
    with pytest.raises(InvalidRequest):
        Authority(tmp_path / "authority", ManualClock()).user_certificate(line, "ann", ["ann"])
    with pytest.raises(InvalidSettings, match="no public key of lab"):
        known_hosts(SSHAddress(host="lab", user="ann", host_keys=(line,)))
    with pytest.raises(Untrusted):
        invitations.key_of(line)
    with pytest.raises(InvalidRequest):
        add_authorized_key(tmp_path / "authorized_keys", line)
    assert not leads(
        "ssh-ed25519 old",
        "ssh-ed25519 new",
        [Handover(old=line[:2000], new="ssh-ed25519 new", signature="00")],
    )


@pytest.mark.parametrize("read", [read_public_key, check_authorized_key])
def test_no_line_makes_another_error(read: Callable[[str], object]) -> None:
    """2,000 lines by chance, of parts that keys are made of: what is none is InvalidRequest, on one line of text."""
    chance = random.Random(4)
    kinds = (
        "ssh-rsa",
        "ssh-dss",
        "ssh-ed25519",
        "ssh-ed448",
        "ecdsa-sha2-nistp521",
        "ssh-rsa-cert-v01@openssh.com",
    )
    parts = (
        b"",
        b"\0",
        b"\x03",
        b"\x80",
        b"\xff" * 32,
        b"\0" + b"\xff" * 99,
        b"\x7f" * 33,
        b"nistp521",
        b"a\nb",
    )
    refused = [
        error for line in _mutilated(chance, kinds, parts) if (error := _refusal(read, line)) is not None
    ]
    assert {type(error) for error in refused} == {InvalidRequest}
    assert all(str(error).isprintable() for error in refused)
    assert len(refused) > 1000


def _mutilated(chance: random.Random, kinds: tuple[str, ...], parts: tuple[bytes, ...]) -> Iterator[str]:
    for _ in range(2000):
        line = _line(chance.choice(kinds), *chance.choices(parts, k=chance.randrange(6)))
        if chance.random() < 0.1:
            line = line[: chance.randrange(len(line))] + chance.choice(("", '"', "\0", "é"))
        yield line


def _refusal(read: Callable[[str], object], line: str) -> GridcloudError | None:
    try:
        read(line)
    except GridcloudError as error:
        return error
    return None
