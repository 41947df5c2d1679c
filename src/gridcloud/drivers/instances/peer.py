"""Machines of other institutions: one provider of all members of our communities, or of one of them.

A request costs one message to each; what is taken is a lease, which the service renews while the instance lives. The
machine is reached through its lender, as SSH within TLS; nobody sees what is done there but the lender. Our own
providers come first, whatever they cost: ``order`` says which institutions come before which. ::

    providers:
      partners:
        driver: peer
        purpose: teaching
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import Field

from gridcloud.errors import NoCapacity, Rejected
from gridcloud.instances.driver import InstanceDriver
from gridcloud.instances.model import (
    SHARED,
    Finding,
    Handle,
    Holding,
    Kind,
    Observation,
    Offer,
    Phase,
    Request,
    Shape,
    Spec,
)
from gridcloud.instances.peers import Looked, PeerOffer, Terms
from gridcloud.settings import ProviderSettings

__all__ = ["PeerDriver", "PeerSettings"]


class PeerSettings(ProviderSettings):
    """Settings of machines that other institutions lend."""

    institution: str = Field(
        default="", description="id, digits or name of one institution; empty: all members of our communities"
    )
    community: str = Field(
        default="", description="id or name of the community that must be common; empty: any of ours"
    )
    purpose: str = Field(default="", max_length=200, description="what it is for, as their policies ask")
    order: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="those with a lower one come first, whatever they cost; 0: among our own providers",
    )


class PeerDriver(InstanceDriver):
    """Other institutions."""

    Settings = PeerSettings
    settings: PeerSettings

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Ask each institution once; see the contract."""
        return await self.offers_for(request, "")

    async def offers_for(self, request: Request, owner: str) -> Sequence[Offer]:
        """Ask each for one of our users, whom their policies may know by name or group."""
        found = await self.context.peers.offers(self._terms(), request, owner)
        offers = [self._offer(one) for one in found]
        if not offers:
            return [self._none("no other institution is a member of our communities")]
        able = [one for one in offers if one.possible]
        if able:
            return sorted(able, key=lambda one: not one.available)
        largest = max(offers, key=lambda one: (one.shape.gpus if request.gpus else 0, one.shape.cpus))
        why = "; ".join(dict.fromkeys(one.why_not for one in offers))
        return [largest.model_copy(update={"why_not": why[:1000]})]

    async def create(self, spec: Spec) -> Handle:
        """Take what was offered; see the contract. Its lender starts it meanwhile."""
        choice = spec.offer.choice
        institution, title, asked = (str(choice.get(name, "")) for name in ("peer", "title", "asked"))
        if not institution:
            raise Rejected(f"{self.context.provider}: this offer is of no institution.")
        try:
            looked = Looked(institution, title, asked, spec.offer.shape)
            lease = await self.context.peers.accept(self._terms(), spec, looked)
        except Rejected as error:  # of what one institution does not take, another may know more
            raise NoCapacity(error.message, remedy=error.remedy) from error
        return Handle(data={"lease": lease, "peer": institution})

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Tell what our books say, which are told by the lenders; see the contract."""
        machines = {one.instance_id: one for one in await self.context.peers.machines(self.context.provider)}
        seen: dict[str, Observation] = {}
        for instance_id in handles:
            machine = machines.get(instance_id)
            if machine is None:
                detail = await self.context.peers.fate(instance_id)
                seen[instance_id] = Observation(phase=Phase.GONE, detail=detail)
            else:
                seen[instance_id] = Observation(
                    phase=machine.phase, address=machine.address, detail=machine.detail
                )
        return seen

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Give it back; see the contract. A lender that does not answer has it back when its time is over."""
        if instance_id != SHARED:
            await self.context.peers.leave(instance_id)

    async def holdings(self) -> Sequence[Holding]:
        """Return what is borrowed; see the contract."""
        return [
            Holding(
                instance_id=one.instance_id,
                what="lease",
                name=f"{one.lease} of {one.name}",
                handle=Handle(data={"lease": one.lease, "peer": one.institution}),
            )
            for one in await self.context.peers.machines(self.context.provider)
        ]

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Nothing is to be told: a lease that nobody renews ends by itself, at its lender."""

    async def check(self) -> Sequence[Finding]:
        """Ask each institution whether it answers and would lend."""
        return await self.context.peers.check(self._terms())

    async def close(self) -> None:
        """Nothing is open."""

    def _terms(self) -> Terms:
        entry = self.settings
        return Terms(self.context.provider, entry.institution, entry.community, entry.purpose)

    def _offer(self, one: PeerOffer) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=one.kind,
            shape=one.shape,
            location=one.location,
            institution=one.name,
            terms=one.terms,
            price=one.price or self.settings.price,
            priced=one.priced,
            available=one.available,
            possible=one.possible,
            why_not=one.why_not,
            distance=self.settings.order,
            choice={"peer": one.institution, "title": one.title, "asked": one.asked},
        )

    def _none(self, why: str) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=Kind.VIRTUAL_MACHINE,
            shape=Shape(cpus=0, memory=0),
            available=False,
            why_not=why,
            distance=self.settings.order,
        )
