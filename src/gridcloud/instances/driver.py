"""The contract of an instance provider: offer, create, observe, destroy.

A driver answers and never waits for a machine: the runner polls. It keeps nothing that matters in memory, so that
all of it works after a restart. Every implementation passes `gridcloud.testing.instances.InstanceDriverContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address
from gridcloud.errors import InvalidSettings, Unreachable
from gridcloud.identity.credentials import Secret
from gridcloud.instances.model import Discovery, Finding, Handle, Holding, Observation, Offer, Request, Spec
from gridcloud.instances.peers import NoPeers, Peers
from gridcloud.settings import ProviderSettings

__all__ = [
    "Agents",
    "Context",
    "Discovering",
    "Expiring",
    "Handing",
    "Imaging",
    "InstanceDriver",
    "JoinedMachine",
    "Personal",
]


async def _no_secret(reference: str) -> Secret:
    raise InvalidSettings("Nobody here reads secrets by reference.")


@dataclass(frozen=True, slots=True)
class JoinedMachine:
    """A machine that dialled us, or did before."""

    name: str
    labels: Mapping[str, str]
    host_key: str
    """Its public key line, pinned."""
    socket: str
    """Unix socket that leads to it while it is connected."""
    draining: bool = False
    """It goes on with what it has, and takes nothing new."""
    removed: bool = False
    """It is no longer ours: what it had is, or will be, ended by itself."""
    load: float = 0
    """Processes that want one of its CPUs, for each CPU that it gives."""
    why_not: str = ""
    """Why it is not connected; empty when it is."""
    instance_of: str = ""
    """The provider that invited it to be one of its instances: no other gives it work."""
    directory: str = ""
    """As its instance: the instance's own folder, once it has said so."""
    home: str = ""
    """As its instance: where the owner's own files lie."""


class Agents(Protocol):
    """The machines that dial us."""

    async def machines(self) -> Sequence[JoinedMachine]:
        """Return all that have joined."""

    async def call(self, name: str, call: str, arguments: Mapping[str, Any], timeout: float = 8.0) -> Any:
        """Have one do something; return its answer. Raises Unreachable, TimedOut, or what it raises."""

    async def invite(
        self,
        name: str,
        provider: str,
        *,
        seconds: int,
        caps: Mapping[str, float],
        addresses: Sequence[str] = (),
    ) -> Secret:
        """Return a token for what is to run as the instance ``name`` of a provider: used once, within ``seconds``, from
        networks (CIDR) where some are named. ``caps``: cpus, memory (bytes), gpus. An earlier one of that name is worth
        nothing then. Raises Conflict while another machine has the name, InvalidRequest."""

    async def forget(self, name: str, provider: str) -> None:
        """Cut off what runs as an instance of a provider, and know it no longer; nothing where none is known.
        Raises Forbidden where the name is another's."""


class _NoAgents:
    async def machines(self) -> Sequence[JoinedMachine]:
        return ()

    async def call(self, name: str, call: str, arguments: Mapping[str, Any], timeout: float = 8.0) -> Any:
        raise Unreachable(f"The machine {name} is not connected: no machine can dial in here.")

    async def invite(
        self,
        name: str,
        provider: str,
        *,
        seconds: int,
        caps: Mapping[str, float],
        addresses: Sequence[str] = (),
    ) -> Secret:
        raise InvalidSettings("No machine can dial in here.")

    async def forget(self, name: str, provider: str) -> None:
        return


@dataclass(frozen=True, slots=True)
class Context:
    """What the house gives a driver."""

    provider: str
    """The provider's name in the configuration."""
    installation: str
    """Our owner tag: the id of this gridcloud installation. Whatever is created carries it and the instance's id."""
    folder: Path
    """A private folder (0700) for this provider, kept between runs."""
    connect: Callable[[Address], Awaitable[Connection]]
    """Open a connection. The caller closes it. Raises Unreachable, Untrusted, Forbidden."""
    user_authority: str
    """Public key lines of the authority that signs our user certificates, and of one that is about to follow it."""
    secret: Callable[[str], Awaitable[Secret]] = _no_secret
    """Read a secret by reference (``file:…``, ``env:…``). Raises NotFound, Forbidden, InvalidSettings."""
    agents: Agents = field(default_factory=_NoAgents)
    """The machines that dial us."""
    peers: Peers = field(default_factory=NoPeers)
    """The other institutions of our communities."""


class InstanceDriver(ABC):
    """One provider. Methods may be called at the same time and in any order; each may be called again."""

    Settings: ClassVar[type[ProviderSettings]] = ProviderSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        """Keep both; touch nothing outside. Called again whenever the configuration changes."""
        self.settings = settings
        self.context = context

    @abstractmethod
    async def offers(self, request: Request) -> Sequence[Offer]:
        """Return what could serve the request, best first, within 10 seconds; reserve nothing.

        What fits but is taken is an offer with ``available=False`` and ``why_not``. What never fits here is one
        offer with ``possible=False``, ``why_not``, and the largest shape there is. Raises Transient when the
        provider does not answer, InvalidSettings when its configuration cannot work.
        """

    @abstractmethod
    async def create(self, spec: Spec) -> Handle:
        """Make the instance, or find the one already made for ``spec.id``; return within 60 seconds.

        Two calls for one id, even at once, make one thing. A call that raised may have left something behind:
        ``destroy`` removes it. Raises Unavailable (NoCapacity, QuotaExceeded) or another Transient when
        the next offer should be tried, Rejected when the request can never work here (no such image).
        """

    @abstractmethod
    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Return what each instance (by id) is now, in as few calls as the provider allows, within 10 seconds.

        What is not there is said to be GONE, and of what nothing is known PENDING; every id has an answer. Raises
        Transient when the provider does not answer, Rejected when it refuses us (credentials that have expired): of
        none anything is known then, and all are left as they are.
        """

    @abstractmethod
    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Remove everything made for this id, processes included; return when it is gone or certain to go.

        Works without a handle (the crash came before it was stored). Removing what is not there succeeds. For the id
        SHARED it removes what serves all instances, where the provider holds none of ours any more, and is Transient
        where it does. Raises Transient when it is not certain.
        """

    @abstractmethod
    async def holdings(self) -> Sequence[Holding]:
        """Return everything the provider holds under our owner tag, half-made things included: machines, disks,
        addresses, networks, …; what serves all instances has the id SHARED. ``destroy`` of each id removes it."""

    @abstractmethod
    async def check(self) -> Sequence[Finding]:
        """Try credentials, reachability, images and limits; start nothing, raise for nothing that is found.

        What is wrong, and what could not be found out (``known=False``), says in ``remedy`` what to do.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections and clients. May be called twice. Instances live on."""


class Handing:
    """A driver whose machines may be made ahead, for nobody (``Spec.seat``), and handed to their owner later.

    As it is here, it fits machines on which nothing depends on whose they are.
    """

    def handing(self) -> str:
        """Return why that cannot be as it is configured; an empty text where it can."""
        return ""

    async def hand_over(self, instance_id: str, handle: Handle, owner: str) -> Handle:
        """Make a running instance an owner's, and return its handle; doing so twice changes nothing more.

        Raises Rejected where it cannot be theirs, Transient where it is to be tried again."""
        return handle


@runtime_checkable
class Personal(Protocol):
    """A driver whose provider offers more to some users than to others."""

    async def offers_for(self, request: Request, owner: str) -> Sequence[Offer]:
        """Return what could serve the request for an owner; as ``offers`` otherwise."""


@runtime_checkable
class Imaging(Protocol):
    """A driver whose provider has images to choose from."""

    async def images(self) -> Sequence[str]:
        """Return the names of images a request may ask for, within 10 seconds."""


@runtime_checkable
class Discovering(Protocol):
    """A driver whose provider has images, shapes, locations and networks to choose from."""

    async def discover(self) -> Discovery:
        """Return all there is to choose from, within 30 seconds. Raises Transient, InvalidSettings."""


@runtime_checkable
class Expiring(Protocol):
    """A driver whose instances end by themselves, whatever becomes of us."""

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Let the instance end by itself at ``at`` (UTC) or soon after; replaces what was armed before.
        Called once the instance is ready and whenever its expiry changes. Raises Transient, NotFound."""
