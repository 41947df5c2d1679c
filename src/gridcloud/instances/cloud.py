"""What the drivers of clouds have in common: their settings, their offers, how their machines are made and reached."""

from __future__ import annotations

import abc
import asyncio
import fnmatch
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gridcloud.connections.model import Address, SSHAddress
from gridcloud.errors import InvalidRequest, InvalidSettings, NotFound, Transient
from gridcloud.instances.bootstraps import (
    AgentBoot,
    AgentDoor,
    forget,
    found_by_agents,
    mark,
    prepared_agent,
)
from gridcloud.instances.choosing import PricedShape, choose_shapes, largest, shape_step
from gridcloud.instances.driver import Context, Handing, InstanceDriver
from gridcloud.instances.first_boot import (
    ARM_USER,
    FirstBoot,
    HostKeys,
    arm,
    arming_principal_of,
    principal_of,
    render_user_data,
)
from gridcloud.instances.matching import shortfall
from gridcloud.instances.model import (
    SHARED,
    Handle,
    Kind,
    Observation,
    Offer,
    Phase,
    Request,
    Shape,
    Spec,
    Step,
)
from gridcloud.instances.ssh_machine import SSHMachine
from gridcloud.settings import ProviderSettings, Size

__all__ = [
    "GRACE",
    "CloudDriver",
    "CloudSettings",
    "Place",
    "address_of",
    "allowed_shapes",
    "arm_machine",
    "build_offers",
    "first_boot_of",
    "image_of",
    "with_price",
]

GRACE = 3600
"""Seconds beyond the time asked for until a machine that nobody armed ends itself: starting takes time."""

_LISTED = 20
"""How many names a message lists at most."""


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is no range of addresses such as 192.0.2.0/24: {error}") from None


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


AddressRange = Annotated[str, AfterValidator(_network)]


class CloudSettings(ProviderSettings):
    """What the entry of every cloud has."""

    image: str = Field(
        min_length=1,
        description="image of requests that name none: an id, a name, or a pattern with * of which the newest is taken",
    )
    images: tuple[str, ...] = Field(
        default=(), description="further images that requests may name; * stands for anything"
    )
    shapes: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = Field(
        default=("*",),
        min_length=1,
        description="names of the shapes that may be taken; * stands for anything",
    )
    prices: Mapping[str, Decimal] = Field(
        default_factory=dict,
        description="price per hour by name of shape, * stands for anything; before what the provider itself says",
    )
    price_factor: Decimal = Field(
        default=Decimal(1),
        gt=0,
        description="what the provider's own prices are multiplied by: exchange rate, tax, discount",
    )
    user: str = Field(
        default="gridcloud",
        pattern=r"^[a-z_][a-z0-9_-]{0,31}$",
        description="account of the owner, made at the first boot",
    )
    sudo: bool = Field(
        default=True, description="let the owner become root on the machine, which is theirs alone"
    )
    disk: Size = Field(
        default=0, description="size of the root disk, e.g. 40GiB; 0: the image's or the shape's"
    )
    instances: int = Field(default=0, ge=0, description="machines held at once, at most; 0: any number")
    public_address: bool = Field(
        default=True, description="give machines an address that is reached from outside"
    )
    jump: SSHMachine | None = Field(default=None, description="machine to go through to reach the others")
    boot_script: str = Field(
        default="",
        description="shell lines that each machine runs as root at its first boot; no secrets here",
    )
    agent: AgentDoor | None = Field(
        default=None,
        description="have an agent on each machine dial this gridcloud's service, so that nobody has to reach it: "
        "{url: https://HOST:PORT}; the image or boot_script brings gridcloud then",
    )

    @model_validator(mode="after")
    def _check_agent(self) -> Self:
        if self.agent and not self.sudo:
            raise ValueError(
                "agent: a machine that is reached by it is told when it ends by its owner: sudo: true"
            )
        return self


class CloudDriver(Handing, InstanceDriver):
    """The driver of a cloud: what is alike at all of them. It makes, looks at and removes machines.

    Its machines are reached by SSH at their addresses; with `agent` by what dials us from there.
    """

    settings: CloudSettings

    async def create(self, spec: Spec) -> Handle:
        """Make the machine, unless it is there; see the contract."""
        door = self.settings.agent
        async with prepared_agent(self.context, spec.id, spec.request, door) as agent:
            boot = await asyncio.to_thread(first_boot_of, self.settings, self.context, spec, agent)
            return mark(await self.make(spec, *boot), door)

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Look at all machines; see the contract."""
        if not handles:
            return {}
        return await found_by_agents(self.context, handles, await self.look(handles))

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Remove the machine and what belongs to it; see the contract."""
        await self.remove(instance_id, handle)
        if instance_id != SHARED:
            await forget(self.context, instance_id)

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Tell the machine when it powers itself off. Raises NotFound, Transient."""
        seen = (await self.observe({instance_id: handle}))[instance_id]
        if seen.address is None:
            kind = NotFound if seen.phase is Phase.GONE else Transient
            raise kind(f"{instance_id} cannot be told when it ends: {seen.detail or seen.phase}.")
        await arm_machine(self.settings, self.context, instance_id, seen.address, at)

    @abc.abstractmethod
    async def make(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        """Make a machine that boots with ``user_data``, as `create` says; ``host_key`` is what it will show."""

    @abc.abstractmethod
    async def look(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Return what is seen, as `observe` says; what `dials` may be RUNNING without an address."""

    @abc.abstractmethod
    async def remove(self, instance_id: str, handle: Handle | None) -> None:
        """Remove it, as `destroy` says."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a machine can be made: a location, with the network there, and how both were chosen."""

    name: str
    steps: tuple[Step, ...] = ()
    choice: Mapping[str, Any] | None = None
    """The driver's own words."""


def build_offers(
    request: Request,
    settings: CloudSettings,
    provider: str,
    shapes: Sequence[PricedShape],
    places: Sequence[Place],
    image: str,
    image_step: Step,
    *,
    why_not: str = "",
    most: int = 3,
) -> list[Offer]:
    """Return offers for the best shapes in every place, spot before on demand where that is asked.

    ``why_not`` says why none can be had now (a quota that is used up): they are not available then. What never
    fits is one offer that says so. Prices of the configuration go before the provider's own, times the factor.
    Raises InvalidSettings where 'shapes' allows none of the shapes.
    """
    priced = [with_price(settings, one) for one in shapes]
    allowed_shapes(settings, provider, [one.shape.name for one in priced])
    fitting = choose_shapes(request, priced, settings.shapes, most)
    if not fitting or not places:
        greatest = largest(priced, settings.shapes, bool(request.gpus))
        why = (
            shortfall(request, greatest) or "no shape has all of it" if not fitting else "it has no location"
        )
        price = next((one.price for one in priced if one.shape == greatest), None)
        cost = {"price": price or Decimal(0), "priced": price is not None}
        return [_offer(provider, greatest, image, **cost, possible=False, available=False, why_not=why)]
    offers = []
    for one in fitting:
        for spot in (True, False) if request.spot and one.spot_price is not None else (False,):
            price = one.spot_price if spot else one.price
            offers += [
                _offer(
                    provider,
                    one.shape,
                    image,
                    location=place.name,
                    price=price or Decimal(0),
                    priced=price is not None,
                    spot=spot,
                    available=not why_not,
                    why_not=why_not,
                    choice={**one.choice, **(place.choice or {})},
                    steps=(image_step, shape_step(one, fitting, spot), *place.steps),
                )
                for place in places
            ]
    return offers


def image_of(settings: CloudSettings, request: Request, provider: str) -> tuple[str, bool]:
    """Return the image that a request means, and whether it names it itself. Raises InvalidRequest for one that may
    not be asked for."""
    if not request.image or request.image == settings.image:
        return settings.image, bool(request.image)
    if not any(fnmatch.fnmatchcase(request.image, pattern) for pattern in settings.images):
        allowed = ", ".join((settings.image, *settings.images))
        raise InvalidRequest(
            f"{provider}: the image {request.image!r:.120} may not be asked for here.",
            remedy=f"Allowed are: {allowed}.",
        )
    return request.image, True


def first_boot_of(
    settings: CloudSettings, context: Context, spec: Spec, agent: AgentBoot | None = None
) -> tuple[str, str]:
    """Return an instance's user data (secret: it holds the host key) and its public host key line."""
    key = HostKeys(context.folder).key(spec.id)
    boot = FirstBoot(
        instance_id=spec.id,
        host_key=key,
        user_authority=context.user_authority,
        user=settings.user,
        sudo=settings.sudo,
        seconds=spec.request.time + GRACE if spec.request.time else 0,
        idle=spec.request.idle,
        run=(settings.boot_script,) if settings.boot_script else (),
        agent=agent,
    )
    return render_user_data(boot), key.public


def address_of(
    settings: CloudSettings, instance_id: str, host: str, host_key: str, port: int = 22
) -> SSHAddress:
    """Return how a machine that booted so is reached: its host key pinned, our certificate for it alone."""
    return SSHAddress(
        host=host,
        port=port,
        user=settings.user,
        host_keys=(host_key,),
        principal=principal_of(instance_id),
        jump=settings.jump.address("", None) if settings.jump else None,
    )


async def arm_machine(
    settings: CloudSettings, context: Context, instance_id: str, address: Address, at: datetime
) -> None:
    """Have a machine that booted so power itself off at ``at``. An owner who is not root has no say in it: another
    account is used then. Raises Transient, Rejected, and what opening the connection raises."""
    if not settings.sudo and isinstance(address, SSHAddress):
        whose = {"user": ARM_USER, "principal": arming_principal_of(instance_id)}
        address = address.model_copy(update=whose)
    connection = await context.connect(address)
    try:
        await arm(connection, at)
    finally:
        await connection.close()


def allowed_shapes(settings: CloudSettings, provider: str, names: Sequence[str]) -> set[str]:
    """Return those of a provider's shapes that may be taken. Raises InvalidSettings where there are shapes, and none is
    called as 'shapes' says."""
    found = {name for name in names for pattern in settings.shapes if fnmatch.fnmatchcase(name, pattern)}
    if names and not found:
        listed = sorted(set(names))
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        raise InvalidSettings(
            f"{provider}: No shape there is called {' or '.join(settings.shapes)}.",
            remedy=f"Set 'shapes' to what fits some of those there are: {', '.join(listed[:_LISTED])}{more}.",
        )
    return found


def with_price(settings: CloudSettings, one: PricedShape) -> PricedShape:
    """Return a shape with the price that counts: the configuration's, else the provider's own times the factor."""
    for pattern, price in settings.prices.items():
        if fnmatch.fnmatchcase(one.shape.name, pattern):
            return PricedShape(one.shape, price, _times(settings, one.spot_price), one.choice)
    own = _times(settings, one.price)
    return PricedShape(
        one.shape,
        own if own is not None else settings.price or None,
        _times(settings, one.spot_price),
        one.choice,
    )


def _times(settings: CloudSettings, price: Decimal | None) -> Decimal | None:
    return None if price is None else price * settings.price_factor


def _offer(provider: str, shape: Shape, image: str, **more: Any) -> Offer:
    return Offer(provider=provider, kind=Kind.VIRTUAL_MACHINE, shape=shape, image=image, **more)
