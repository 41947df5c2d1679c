"""A key's signed word that another takes its place, so that who trusts the first may follow to the second."""

from __future__ import annotations

from collections.abc import Iterable

import asyncssh
from pydantic import BaseModel, ConfigDict, Field

from gridcloud.errors import InvalidRequest
from gridcloud.identity.public_keys import read_public_key

__all__ = ["Handover", "hand_over", "leads"]

PURPOSE = b"gridcloud-authority-handover-1"
"""What is signed begins with this, so that the signature is of no use elsewhere."""
MOST = 1000
"""Steps that are followed."""


class Handover(BaseModel):
    """One step. Both keys are public key lines of two words."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    old: str = Field(max_length=2000)
    new: str = Field(max_length=2000)
    signature: str = Field(max_length=2000, description="by the old key, an SSH signature in hexadecimal")


def hand_over(old: asyncssh.SSHKey, new: str) -> Handover:
    """Sign that the key ``new`` (a public key line) takes the place of an Ed25519 key."""
    before = _plain(old.export_public_key().decode())
    signature = old.sign(_said(before, _plain(new)), b"ssh-ed25519")
    return Handover(old=before, new=_plain(new), signature=signature.hex())


def leads(known: str, present: str, handovers: Iterable[Handover]) -> bool:
    """Whether signed steps lead from the key line ``known`` to ``present``; true without one for the same key."""
    by_new = {one.new: one for one in handovers}
    at, wanted = _plain(present), _plain(known)
    for _ in range(MOST):
        if at == wanted:
            return True
        step = by_new.get(at)
        if step is None or not _is_signed(step):
            return False
        at = step.old
    return False


def _is_signed(step: Handover) -> bool:
    try:
        key = read_public_key(step.old)
        return key.get_algorithm() == "ssh-ed25519" and key.verify(
            _said(step.old, step.new), bytes.fromhex(step.signature)
        )
    except (InvalidRequest, ValueError):
        return False


def _plain(line: str) -> str:
    """Return a public key line without its comment."""
    return " ".join(line.split()[:2])


def _said(old: str, new: str) -> bytes:
    return b"\n".join([PURPOSE, old.encode(), new.encode()])
