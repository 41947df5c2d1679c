"""How an institution comes in: the host's side of `community.join`, and the guest's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from gridcloud.clock import Clock
from gridcloud.errors import (
    Conflict,
    GridcloudError,
    InvalidRequest,
    Malformed,
    MessageRefused,
    NotFound,
    Replayed,
    Transient,
)
from gridcloud.federation.communities import read_list
from gridcloud.federation.encoding import Json
from gridcloud.federation.gossip import Gossip
from gridcloud.federation.invitations import (
    JOIN,
    Invitation,
    InvitationBook,
    begin_membership,
    read_invitation,
    write_join,
)
from gridcloud.federation.keys import read_key_list
from gridcloud.grid.calling import Caller
from gridcloud.grid.circle import Circle, Held
from gridcloud.grid.mail import Mail
from gridcloud.grid.seal import Seal

__all__ = ["WELCOME", "Joining"]

log = logging.getLogger(__name__)

WELCOME = "community.welcome"
"""The answer to `community.join`, with an empty body: the guest is put on the next list, and hears of it by gossip."""


class Joining:
    """Invitations, ours and those that were given to us. `arrived` is called when a guest used one of ours."""

    def __init__(
        self,
        circle: Circle,
        mail: Mail,
        seal: Seal,
        caller: Caller,
        clock: Clock,
        arrived: Callable[[Held], Awaitable[None]],
    ) -> None:
        self._circle = circle
        self._mail = mail
        self._seal = seal
        self._caller = caller
        self._clock = clock
        self._arrived = arrived
        self._lock = asyncio.Lock()

    async def invite(
        self, held: Held, guest: str, addresses: tuple[str, ...], lifetime: timedelta
    ) -> tuple[Invitation, Json]:
        """Return a new invitation of ours, and the document for the guest, which holds our newest list too."""
        if self._circle.me not in held.membership.members(self._circle.now()):
            raise InvalidRequest(f"We are not a member of {held.membership.current.name}.")
        if not addresses:
            raise InvalidRequest(
                "The guest could not come to us: nothing here is reached from outside.",
                remedy="Set grid.listen and grid.addresses, or have another member invite.",
            )
        current = held.membership.current
        invitation = self._circle.book.write(
            self._seal.key_in_use(),
            self._circle.our_keys(),
            current,
            guest=guest,
            id=self._clock.new_id("v"),
            addresses=addresses,
            issued=self._circle.now(),
            lifetime=lifetime,
        )
        await self._circle.save_book()
        return invitation, {"invitation": invitation.document(), "members": current.document()}

    async def withdraw(self, invitation: str) -> None:
        """Make an invitation of ours worthless. Raises NotFound."""
        if invitation not in {one["id"] for one in self._circle.book.state()["written"]}:
            raise NotFound(f"There is no invitation {invitation!r:.80} of ours.")
        self._circle.book.withdraw(invitation)
        await self._circle.save_book()

    async def take_guest(self, data: bytes) -> bytes:
        """Take in who used an invitation of ours, stored before the answer. Raises as `InvitationBook.open_join`."""
        async with self._lock:
            book = self._circle.book
            before = book.state()
            envelope, member, _ = book.open_join(self._mail.receiver, data, self._circle.now())
            self._mail.journal.note(envelope)
            try:
                held = self._held(before, str(envelope.body["invitation"]))
                held.guests[member.institution] = member
                self._circle.learn_guests(held)
                # The guest first: if we are killed in between, its invitation still works, and it comes again.
                await self._circle.save(held)
                await self._circle.save_book()
            except GridcloudError:
                self._circle.book = InvitationBook.of(before)
                raise
        log.info("%s (%s) used its invitation", member.name, member.institution)
        await self._arrived(held)
        return self._seal.sign(WELCOME, member.institution, {}, answers=envelope.nonce)

    async def join(self, document: Json, inviter: str) -> Held:
        """Answer an invitation; done again after a lost answer it goes on. Raises as `read_invitation`, `ask` do."""
        if set(document) != {"invitation", "members"}:
            raise Malformed("an invitation comes with the list of members: {invitation, members}")
        invitation = read_invitation(document["invitation"], self._circle.me, inviter, self._circle.now())
        host = read_key_list(invitation.host, inviter)
        known = self._circle.held.get(invitation.community)
        if known is not None and known.membership.is_listed(self._circle.me):
            raise Conflict(f"We are a member of {invitation.name} already.")
        held = known or Held(
            Gossip(self._circle.me, begin_membership(invitation, read_list(document["members"])))
        )
        held.hosts[inviter] = invitation.addresses
        held.gossip.learn(host)
        body = write_join(invitation, self._circle.our_keys(), self._circle.name)
        try:
            # What we need to go on is stored before the invitation is used up.
            await (self._circle.add(held) if known is None else self._circle.save(held))
            await self._caller.ask_host(host, invitation.addresses, JOIN, body)
        except Replayed:
            log.info("the invitation %s was used by us before", invitation.id)
        except Transient:
            raise  # it may have been taken: this community stays, and the person may try again
        except (MessageRefused, GridcloudError):
            if known is None:
                await self._circle.forget(held.community)
            raise
        return held

    def _held(self, book: Json, invitation: str) -> Held:
        community = next(one["community"] for one in book["written"] if one["id"] == invitation)
        held = self._circle.held.get(community)
        if held is None:
            raise NotFound("The community of this invitation is no more.")
        return held
