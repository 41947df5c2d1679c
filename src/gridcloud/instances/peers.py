"""Other institutions, as the driver that borrows of them sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from gridcloud.connections.model import SSHAddress
from gridcloud.errors import Unreachable
from gridcloud.instances.model import Finding, Kind, Phase, Request, Shape, Spec

__all__ = ["BorrowedMachine", "Looked", "NoPeers", "PeerOffer", "Peers", "Terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """With whom, and what for, an entry of the configuration borrows."""

    provider: str
    """The entry's name: what it borrowed is found by it."""
    institution: str = ""
    """Its id or name; empty: all members of our communities."""
    community: str = ""
    """Id or name of the community that must be common; empty: any."""
    purpose: str = ""


@dataclass(frozen=True, slots=True)
class PeerOffer:
    """What one institution could lend for a request, or why it cannot."""

    institution: str
    name: str
    location: str
    kind: Kind
    title: str
    """What it calls the machine."""
    shape: Shape
    price: Decimal = field(default=Decimal(0))
    """Per hour, in our currency."""
    priced: bool = True
    available: bool = True
    possible: bool = True
    why_not: str = ""
    terms: str = ""
    """How long it is lent, and what else people should know, in words."""
    asked: str = ""
    """The price per hour in the words of the institution; empty: no money."""


@dataclass(frozen=True, slots=True)
class Looked:
    """An offer that an institution made, as it was looked at: no other is accepted in its place."""

    institution: str
    title: str
    asked: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class BorrowedMachine:
    """A machine that was lent, or is to be."""

    lease: str
    instance_id: str
    institution: str
    name: str
    """Of the institution."""
    phase: Phase
    address: SSHAddress | None = None
    detail: str = ""


class Peers(Protocol):
    """The other institutions of our communities."""

    async def offers(self, terms: Terms, request: Request, owner: str) -> Sequence[PeerOffer]:
        """Ask each once, with one message; one that does not answer says so. Raises NotFound, InvalidSettings."""

    async def accept(self, terms: Terms, spec: Spec, looked: Looked) -> str:
        """Borrow a machine for ``spec.id``, or find the one already borrowed; return its lease.

        ``looked``: the offer that was looked at. Raises NoCapacity when it is refused, or has changed; Transient.
        """

    async def machines(self, provider: str) -> Sequence[BorrowedMachine]:
        """Return what an entry borrowed, by our own books: nobody is asked. What was given back is not in it."""

    async def fate(self, instance_id: str) -> str:
        """Return what became of the last machine that was borrowed for an instance, in words."""

    async def leave(self, instance_id: str) -> None:
        """Give back what was borrowed for an instance; return when it is not used any more and certain to be free."""

    async def check(self, terms: Terms) -> Sequence[Finding]:
        """Ask each whether it answers, and whether it would lend something."""


class NoPeers:
    """There are no other institutions."""

    async def offers(self, terms: Terms, request: Request, owner: str) -> Sequence[PeerOffer]:
        """Offer nothing."""
        return ()

    async def accept(self, terms: Terms, spec: Spec, looked: Looked) -> str:
        """Raise Unreachable."""
        raise Unreachable("No other institution is known here.", remedy="See: gridcloud grid status")

    async def machines(self, provider: str) -> Sequence[BorrowedMachine]:
        """Nothing was borrowed."""
        return ()

    async def fate(self, instance_id: str) -> str:
        """Nothing was borrowed."""
        return "it was never borrowed"

    async def leave(self, instance_id: str) -> None:
        """Nothing was borrowed."""

    async def check(self, terms: Terms) -> Sequence[Finding]:
        """Say that there are none."""
        message, remedy = "no other institution is known here", "Make it one: gridcloud grid init"
        return [Finding(subject=terms.provider, ok=False, message=message, remedy=remedy)]
