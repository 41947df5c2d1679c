"""What one institution does in the grid: its keys, its communities, its invitations; stored before anybody is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self, TypeAlias

from gridcloud.clock import Clock
from gridcloud.federation.encoding import Json
from gridcloud.federation.envelopes import Signers
from gridcloud.federation.keys import KeyList, PrivateKey
from gridcloud.federation.records import Profile, Room
from gridcloud.grid.calling import Caller
from gridcloud.grid.doorway import Doorway
from gridcloud.grid.model import Community, GivenInvitation, Member, Proposal, Standing, Status
from gridcloud.identity import Secret
from gridcloud.settings.grid import GridSettings
from gridcloud.store import Store

__all__ = ["Capacities", "Office"]

Capacities: TypeAlias = Callable[[], Awaitable[Sequence[Room]]]
"""Returns what there is and what is free, for our record; called about once a minute."""


class Office:
    """Our institution in the grid. Make it with `Office.open`; until `init`, it opens no port and calls nobody.

    `root` of the verbs is the root key in PEM where it is kept offline (`take_root_out`); without it they raise
    Forbidden then, saying so. All raise InvalidRequest before `init`. A community is named by its id or, where that is
    clear, its name; an institution by its id, its fingerprint in digits or, where that is clear, its name.
    """

    caller: Caller
    """Asks other members."""
    doorway: Doorway
    """Give it handlers before `start`."""

    @classmethod
    async def open(
        cls,
        settings: Callable[[], GridSettings],
        data: Path,
        store: Store,
        clock: Clock,
        *,
        capacities: Capacities | None = None,
    ) -> Self:
        """Take up what is stored; nothing is sent or listened to before `start`. `data`: a folder of our own."""
        raise NotImplementedError

    async def start(self) -> None:
        """Listen, gossip and attend relays, as the settings say, if we are initialised; `init` does it otherwise.

        Raises PortTaken, InvalidSettings.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close the door, end the loops, store what is only remembered. May be called twice."""
        raise NotImplementedError

    # Who we are ------------------------------------------------------------------------------------------------

    @property
    def initialised(self) -> bool:
        """Whether `init` was done."""
        raise NotImplementedError

    @property
    def me(self) -> str:
        """Our institution's id. Raises InvalidRequest before `init`."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What we are called. Raises InvalidRequest before `init`."""
        raise NotImplementedError

    def service_key(self) -> PrivateKey:
        """Return the key that signs now, for claims and statements."""
        raise NotImplementedError

    async def init(self, name: str) -> Standing:
        """Make our keys and begin to take part. Raises Conflict when that was done before under another name."""
        raise NotImplementedError

    async def take_root_out(self) -> Secret:
        """Return the root key in PEM and keep none: verbs that sign with it need it then. Raises Conflict twice."""
        raise NotImplementedError

    async def rotate(self, *, root: Secret | None = None) -> Standing:
        """Make a new service key; the one before stays good for two days. Done by itself where the root key is here."""
        raise NotImplementedError

    async def revoke_key(self, key: str, *, root: Secret | None = None) -> Standing:
        """Have a service key of ours believed no longer, at once; a new one is made where it was the one in use."""
        raise NotImplementedError

    # Communities -----------------------------------------------------------------------------------------------

    async def found(
        self, name: str, *, ends: datetime | None = None, root: Secret | None = None
    ) -> Community:
        """Begin a community with ourselves as the only member."""
        raise NotImplementedError

    async def invite(
        self, community: str, guest: str, *, lifetime: timedelta = timedelta(days=7)
    ) -> tuple[GivenInvitation, Json]:
        """Invite the institution whose fingerprint was heard; return the invitation, and the document to give it.

        Raises InvalidRequest, also where we have no address and no relay that the guest could come to.
        """
        raise NotImplementedError

    async def withdraw(self, invitation: str) -> None:
        """Make an invitation worthless. Raises NotFound."""
        raise NotImplementedError

    async def join(self, invitation: Json, inviter: str) -> Community:
        """Answer an invitation of the institution whose fingerprint was heard, `inviter`; may be done again.

        We are a member once enough members signed: `Community.joining` until then. Raises what `read_invitation` and
        `Caller.ask` raise.
        """
        raise NotImplementedError

    def communities(self) -> tuple[Community, ...]:
        """Return our communities, with their members and what waits to be signed."""
        raise NotImplementedError

    def community(self, name: str) -> Community:
        """Return one, by its id or name. Raises NotFound."""
        raise NotImplementedError

    def members(self) -> Mapping[str, Member]:
        """Return who is a member of any community of ours now, by id; not ourselves."""
        raise NotImplementedError

    def communities_of(self, institution: str) -> frozenset[str]:
        """Return the ids of our communities that an institution is a member of now."""
        raise NotImplementedError

    def profiles(self) -> Mapping[str, Profile]:
        """Return what other members' newest records say, by id."""
        raise NotImplementedError

    def keys_of(self, institution: str) -> KeyList | None:
        """Return the newest key list of an institution, our own too; None when none is known."""
        raise NotImplementedError

    def signers(self) -> Signers:
        """Return whose messages and documents are believed now."""
        raise NotImplementedError

    def find(self, institution: str) -> str:
        """Return the id of a member of ours by its id, its digits or its name. Raises NotFound, InvalidRequest."""
        raise NotImplementedError

    async def change(
        self,
        community: str,
        *,
        threshold: int | None = None,
        ends: datetime | None = None,
        root: Secret | None = None,
    ) -> Proposal | None:
        """Change how many sign, or when the community ends; returns what waits for others, None when it is in force."""
        raise NotImplementedError

    async def revoke(
        self, community: str, institution: str, why: str, *, root: Secret | None = None
    ) -> Proposal | None:
        """Put a member out for good; returns what waits for others' signatures, None when it is in force."""
        raise NotImplementedError

    async def sign(self, community: str, *, root: Secret | None = None) -> Proposal | None:
        """Sign what waits in a community; returns it while others have yet to sign, None once it is in force.

        Raises NotFound when nothing waits, Conflict when another list of its number was signed here.
        """
        raise NotImplementedError

    async def leave(self, community: str, *, root: Secret | None = None) -> bool:
        """Leave a community and forget it; False while no other member heard of it yet, which is tried on."""
        raise NotImplementedError

    async def forget(self, community: str) -> None:
        """Forget a community at once, whoever heard of it: what a person does who was put out, or gives up waiting."""
        raise NotImplementedError

    def when_forgotten(self, told: Callable[[str], Awaitable[None]]) -> None:
        """Have `told` called with the id of each community that ended or was left: nothing of it is to be kept."""
        raise NotImplementedError

    def status(self) -> Status:
        """Return all of it at this moment."""
        raise NotImplementedError
