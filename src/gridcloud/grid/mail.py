"""Messages of members, as they come in and as they are answered: believed once, remembered, then read."""

from __future__ import annotations

from gridcloud.clock import Clock
from gridcloud.errors import MessageRefused, Revoked, UnknownSigner
from gridcloud.federation.envelopes import Envelope, Receiver, Signers
from gridcloud.federation.keys import KeyList
from gridcloud.grid.circle import Circle
from gridcloud.grid.links import LinkBook
from gridcloud.grid.replays import Journal

__all__ = ["Mail"]


class Mail:
    """Opens what came over a connection that proved a service key."""

    def __init__(self, circle: Circle, journal: Journal, links: LinkBook, clock: Clock) -> None:
        self.circle = circle
        self.journal = journal
        self._links = links
        self.receiver = Receiver(circle.me, clock, journal.cache)

    def recognise(self, key: str, who: str) -> str:
        """Return `who`, as a certificate signed by this service key says, if it is a member and the key is good now.

        Raises UnknownSigner, Revoked or Expired, as of a message.
        """
        keys = self.circle.keys_of(who)
        if keys is None or who == self.circle.me or key not in _named(keys):
            raise UnknownSigner(f"the key {key[:8]}… is of nobody known here")
        try:
            self.circle.signer(who).check(who, key, self.circle.now())
        except MessageRefused as refusal:
            refusal.details = {"who": who} | refusal.details
            raise
        return who

    def is_revoked(self, key: str, who: str) -> bool:
        """Say whether an institution revoked a service key of its own: what was begun with it is over too."""
        keys = self.circle.keys_of(who)
        return keys is not None and any(one.key == key for one in keys.revoked)

    def open(self, data: bytes, sender: str, *, answers: str | None = None) -> Envelope:
        """Return a member's message, which is remembered herewith; nobody but `sender`, whom TLS proved, may have sent
        it. Raises what `Receiver.open` raises.
        """
        envelope = self.receiver.open(data, self.circle.signer(sender), answers=answers)
        self.journal.note(envelope)
        self._links.heard(sender, envelope.issued)
        return envelope

    def open_answer(self, data: bytes, theirs: KeyList, answers: str) -> Envelope:
        """Return the answer of somebody whose keys are known, member or host of ours."""
        envelope = self.receiver.open(data, Signers({theirs.institution: theirs}), answers=answers)
        self.journal.note(envelope)
        self._links.heard(theirs.institution, envelope.issued)
        return envelope

    def keys_for_calling(self, institution: str) -> KeyList:
        """Return the keys of a member, or of who invited us. Raises UnknownSigner, Revoked."""
        believed = self.circle.signer(institution)
        if institution in believed.keys:
            return believed.keys[institution]
        if institution in believed.revoked:
            raise Revoked(f"{institution} is no longer a member: {believed.revoked[institution]}")
        raise UnknownSigner(
            f"{institution} is not a member of any community of ours, or its keys are not known yet"
        )


def _named(keys: KeyList) -> set[str]:
    return {one.key for one in keys.keys} | {one.key for one in keys.revoked}
