"""Our SSH certificate authority: short-lived certificates instead of keys copied to machines.

Two keys, because whoever may vouch for users must not be able to vouch for machines. A machine trusts our users by
``TrustedUserCAKeys`` with `user_authorities`; we trust a machine by its host certificate.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import asyncssh

from gridcloud.clock import Clock
from gridcloud.errors import InvalidRequest
from gridcloud.identity.handover import Handover, hand_over
from gridcloud.identity.keys import KeyFolder, write_whole
from gridcloud.identity.public_keys import read_public_key
from gridcloud.identity.revocation import encode_revocations

__all__ = ["Authority"]

Side = Literal["user", "host"]

SKEW = 120
"""Seconds by which a machine's clock may lag behind ours."""
LONGEST = 366 * 86400


class Authority:
    """The authority of one installation, in a folder of its own; made at the first use."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._keys = KeyFolder(folder)
        self._clock = clock
        self._notes = folder / "notes.json"
        for name, purpose in (
            ("user_authority", "gridcloud user authority"),
            ("host_authority", "gridcloud host authority"),
            ("service", "gridcloud service"),
        ):
            self._keys.ensure(name, purpose)

    @property
    def user_authority(self) -> str:
        """Public key line of the authority that signs user certificates now."""
        return self._keys.public("user_authority")

    @property
    def host_authority(self) -> str:
        """Public key line of the authority that signs host certificates now."""
        return self._keys.public("host_authority")

    @property
    def service_key(self) -> asyncssh.SSHKey:
        """The service's own client key, for machines that take no certificates."""
        return self._keys.private("service")

    def authorities(self, side: Side) -> list[str]:
        """Public key lines to trust: the present one, the one that was prepared to follow it, then those that were
        rotated out and not yet forgotten."""
        return [*self.published(side), *self._read()[f"{side}_previous"]]

    def published(self, side: Side) -> list[str]:
        """Public key lines that what is made now is told to trust: the present one, and the one that is to follow."""
        return [
            self._keys.public(name) for name in (f"{side}_authority", _next(side)) if self._keys.exists(name)
        ]

    def prepared(self, side: Side) -> datetime | None:
        """Return since when there is a key that is to follow the present one; None while there is none."""
        noted = self._read()[f"{side}_prepared"]
        return datetime.fromisoformat(noted[0]) if noted and self._keys.exists(_next(side)) else None

    def prepare(self, side: Side) -> str:
        """Make the key that the next `rotate` goes over to, and return its public line; the same one if asked again.

        Until then nothing is signed with it; what is made meanwhile trusts both, and goes on after the rotation.
        """
        if self.prepared(side) is None:
            self._keys.remove(_next(side))
            self._keys.generate(_next(side), f"gridcloud {side} authority")
            notes = self._read()
            notes[f"{side}_prepared"] = [self._clock.now().isoformat()]
            self._write(notes)
        return self._keys.public(_next(side))

    def handovers(self, side: Side) -> tuple[Handover, ...]:
        """Return what leads who trusts an authority that was rotated out, and not yet forgotten, to the present one."""
        return tuple(Handover.model_validate_json(one) for one in self._read()[f"{side}_handovers"])

    def user_certificate(
        self, public_key: str, user: str, principals: Sequence[str], seconds: int = 3600
    ) -> asyncssh.SSHCertificate:
        """Sign a user's public key (a line) for logging in as one of the principals for ``seconds``.

        The certificate's id names the user and the serial, and sshd writes it into its log. Raises InvalidRequest.
        """
        serial = _serial()
        now = self._now(seconds)
        try:
            return self._keys.private("user_authority").generate_user_certificate(
                read_public_key(public_key),
                _name(user, serial),
                serial=serial,
                principals=_checked(principals),
                valid_after=now - SKEW,
                valid_before=now + seconds,
                permit_x11_forwarding=False,
                permit_agent_forwarding=False,
                permit_user_rc=False,
            )
        except asyncssh.KeyGenerationError as error:
            raise InvalidRequest(f"The certificate for {user!r} cannot be made: {error}.") from error

    def host_certificate(
        self, public_key: str, hosts: Sequence[str], seconds: int = 30 * 86400
    ) -> asyncssh.SSHCertificate:
        """Sign a machine's host key (a line) for the names and addresses it is reached by. Raises InvalidRequest."""
        serial = _serial()
        now = self._now(seconds)
        names = _checked(hosts)
        return self._keys.private("host_authority").generate_host_certificate(
            read_public_key(public_key),
            _name(names[0], serial),
            serial=serial,
            principals=names,
            valid_after=now - SKEW,
            valid_before=now + seconds,
        )

    def revoke(self, serials: Iterable[int]) -> None:
        """Revoke certificates by their serials; machines refuse them once they have the new `revocations`."""
        notes = self._read()
        notes["revoked"] = sorted({*notes["revoked"], *(str(serial) for serial in serials)})
        self._write(notes)

    def revocations(self) -> bytes:
        """Return the revocation list for sshd's ``RevokedKeys``, of all authorities of users that are trusted."""
        blobs = [read_public_key(line).public_data for line in self.authorities("user")]
        serials = [int(serial) for serial in self._read()["revoked"]]
        return encode_revocations(blobs, serials, int(self._clock.now().timestamp()))

    def rotate(self, side: Side) -> str:
        """Sign with a new key from now on, the one that was prepared where there is one, and return its public line.

        The old private key is gone; its public half stays in `authorities` until `forget`, so that what it signed
        works until it runs out. The old key signs that the new one takes its place (`handovers`).
        """
        name = f"{side}_authority"
        notes = self._read()
        notes[f"{side}_previous"] = [self._keys.public(name), *notes[f"{side}_previous"]]
        if self._keys.exists(_next(side)):
            key = self._keys.private(_next(side))
        else:
            key = asyncssh.generate_private_key("ssh-ed25519", comment=f"gridcloud {side} authority")
        step = hand_over(self._keys.private(name), key.export_public_key().decode())
        notes[f"{side}_handovers"] = [*notes[f"{side}_handovers"], step.model_dump_json()]
        notes[f"{side}_prepared"] = []
        self._write(notes)
        line = self._keys.store(name, key, replace=True)
        self._keys.remove(_next(side))
        return line

    def forget(self, side: Side) -> None:
        """Trust no authority any more that was rotated out, and lead nobody from it to the present one."""
        notes = self._read()
        notes[f"{side}_previous"] = []
        notes[f"{side}_handovers"] = []
        self._write(notes)

    def _now(self, seconds: int) -> int:
        if not 1 <= seconds <= LONGEST:
            raise InvalidRequest(f"A certificate lasts 1 to {LONGEST} seconds, not {seconds}.")
        return int(self._clock.now().timestamp())

    def _read(self) -> dict[str, list[str]]:
        notes: dict[str, list[str]] = {"user_previous": [], "host_previous": [], "revoked": []}
        notes |= {"user_handovers": [], "host_handovers": [], "user_prepared": [], "host_prepared": []}
        try:
            notes.update(json.loads(self._notes.read_text()))
        except FileNotFoundError:
            return notes
        return notes

    def _write(self, notes: dict[str, list[str]]) -> None:
        write_whole(self._notes, json.dumps(notes, indent=1).encode(), 0o600)


def _next(side: Side) -> str:
    return f"{side}_authority_next"


def _serial() -> int:
    return secrets.randbits(63) | 1  # 0 cannot be revoked


def _name(who: str, serial: int) -> str:
    # The name lands in the logs of machines: nothing in it may look like another line or field.
    return f"gridcloud:{quote(who, safe='@')[:200]}:{serial}"


def _checked(names: Sequence[str]) -> list[str]:
    # No principal at all would be valid for every account.
    wrong = [name for name in names if not re.fullmatch(r"[!-+\--~]{1,255}", name)]
    if not names or wrong or isinstance(names, str):
        raise InvalidRequest(
            f"A certificate is for names without spaces or commas, not for {list(names)!r:.200}."
        )
    return list(names)
