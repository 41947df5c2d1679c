"""What a machine serves: instances of its own local or container driver, within the terms that its owner set.

All instances run as the account that the agent runs as, so that one person at a time is served unless the owner lets
people share. The terms are checked here, on the machine, whatever the service believes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import gridcloud
from gridcloud import connections, plugins
from gridcloud.agents.membership import Membership
from gridcloud.agents.model import Caps, Report, Terms, lowest
from gridcloud.agents.serving import Account
from gridcloud.connections.driver import Connection
from gridcloud.connections.model import Address, ContainerAddress, LocalAddress
from gridcloud.errors import (
    Forbidden,
    GridcloudError,
    InvalidRequest,
    NoCapacity,
    NotFound,
    Transient,
    Unavailable,
)
from gridcloud.identity.keys import write_whole
from gridcloud.instances.driver import Context, InstanceDriver
from gridcloud.instances.model import Handle, Observation, Phase, Request, Shape, Spec
from gridcloud.settings import ProviderSettings

__all__ = ["Host", "describe_terms"]

log = logging.getLogger(__name__)

PROVIDER = "agent"
LEAST = 16 << 20
"""Bytes of memory of an instance at least: of none, a container's engine would make no limit."""
LOOK = 2.0
"""Seconds between two looks for instances whose time is over."""
ENORMOUS = Request(cpus=1_000_000, memory=2**60)
"""Asks the driver for the largest shape there is."""


class _Held(BaseModel):
    """What this machine keeps of an instance."""

    model_config = ConfigDict(frozen=True)

    owner: str
    cpus: float = 0
    memory: int = 0
    gpus: int = 0
    handle: Handle | None = None
    ends: datetime | None = None
    """When the service wants it to be over, whatever becomes of the service."""
    closes: datetime | None = None
    """When the machine's hours are over."""

    def over(self, now: datetime) -> str:
        """Say why its time is over; empty while it is not."""
        if self.closes is not None and self.closes <= now:
            return "the hours in which the machine may be used are over"
        if self.ends is not None and self.ends <= now:
            return "its time was over"
        return ""


class _Keys:
    """No connection on this machine needs a key."""

    async def private_key(self, reference: str) -> Any:
        raise NotFound("There are no keys here.")

    async def user_certificate(self, principal: str) -> Any:
        raise NotFound("There are no keys here.")


class Host:
    """One machine's instances. ``folder``: private, kept between runs."""

    def __init__(
        self, membership: Membership, folder: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._terms = membership.terms
        self._now = now
        self._folder = folder
        self._notes = folder / "instances.json"
        self._held = self._read()
        self._addresses: dict[str, Address] = {}
        self._lock = asyncio.Lock()
        self._driver = _make_driver(membership, folder / "driver")
        self._whole: Shape | None = None
        self._watch: asyncio.Task[None] | None = None
        self._calls: Mapping[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "offers": self._offers,
            "create": self._create,
            "observe": self._observe,
            "destroy": self._destroy,
            "holdings": self._holdings,
            "arm": self._arm,
            "check": self._check,
            "remove": self._remove,
        }

    async def start(self) -> None:
        """Take up what an earlier run left, and look after what is to end."""
        for instance_id, held in self._held.items():
            if held.handle is not None:
                with contextlib.suppress(GridcloudError):
                    await self._look({instance_id: held.handle})
        self._watch = asyncio.create_task(self._end_in_time(), name="agent: expiries")

    async def close(self) -> None:
        """Let go; instances live on."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._driver.close()

    async def report(self) -> Report:
        """Return what is there now."""
        whole = await self._capacity()
        held = self._held.values()
        return Report(
            version=gridcloud.__version__,
            capacity=Caps(cpus=whole.cpus, memory=whole.memory, gpus=whole.gpus),
            free=Caps(
                cpus=max(whole.cpus - sum(one.cpus for one in held), 0),
                memory=max(whole.memory - sum(one.memory for one in held), 0),
                gpus=max(whole.gpus - sum(one.gpus for one in held), 0),
            ),
            gpu_model=whole.gpu_model,
            load=os.getloadavg()[0],
            running=tuple(self._held)[:1000],
            open=self._terms.hours.is_open(self._now().astimezone()),
            terms=describe_terms(self._terms),
            labels=self._terms.labels,
        )

    async def answer(self, call: str, arguments: dict[str, Any]) -> Any:
        """Do what the service asks for. Raises GridcloudError."""
        do = self._calls.get(call)
        if do is None:
            raise InvalidRequest(f"A machine knows no {call!r:.60}.")
        try:
            return await do(arguments)
        except (ValidationError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The arguments of {call} are not as they should be: {error!r:.300}"
            ) from error

    def find(self, name: str) -> Account | None:
        """Return the account of an instance that is here."""
        address = self._addresses.get(name) if name in self._held else None
        if address is None:
            return None

        async def open() -> Connection:  # noqa: A001 - what the account calls it
            return await connections.open(address, _Keys())

        return Account(f"gridcloud-{name}", address.directory, open)

    # Calls ---------------------------------------------------------------------------------------------------

    async def _offers(self, arguments: dict[str, Any]) -> Any:
        request = Request.model_validate(arguments["request"])
        offers = await self._driver.offers(request)
        closed = "" if self._terms.hours.is_open(self._now().astimezone()) else self._closed()
        return [
            (
                offer.model_copy(update={"available": False, "why_not": closed}) if closed else offer
            ).model_dump(mode="json")
            for offer in offers
        ]

    async def _create(self, arguments: dict[str, Any]) -> Any:
        spec = Spec.model_validate(arguments["spec"])
        async with self._lock:
            if spec.id not in self._held:
                self._admit(spec)
                closes = self._terms.hours.closes(self._now().astimezone())
                asked = spec.request
                held = _Held(
                    owner=spec.owner, cpus=asked.cpus, memory=asked.memory, gpus=asked.gpus, closes=closes
                )
                self._keep(spec.id, held)
        try:
            handle = await self._driver.create(self._narrow(spec))
        except (Unavailable, InvalidRequest):
            self._keep(spec.id, None)
            raise
        made = self._held.get(spec.id)
        if made is None:
            raise Transient(f"{spec.id} was ended while it was made.")
        self._keep(spec.id, made.model_copy(update={"handle": handle}))
        return handle.model_dump(mode="json")

    async def _observe(self, arguments: dict[str, Any]) -> Any:
        handles = {str(name): Handle.model_validate(one) for name, one in arguments["handles"].items()}
        seen = await self._look(handles)
        return {name: _tell(one) for name, one in seen.items()}

    async def _destroy(self, arguments: dict[str, Any]) -> Any:
        handle = arguments.get("handle")
        await self._end(str(arguments["id"]), Handle.model_validate(handle) if handle else None)

    async def _holdings(self, arguments: dict[str, Any]) -> Any:
        return [holding.model_dump(mode="json") for holding in await self._driver.holdings()]

    async def _arm(self, arguments: dict[str, Any]) -> Any:
        name, at = str(arguments["id"]), datetime.fromisoformat(arguments["at"])
        if at.tzinfo is None:
            raise InvalidRequest(f"{at} is no moment: its time zone is missing.")
        held = self._held.get(name)
        if held is None:
            raise NotFound(f"There is no instance {name!r:.60} here.")
        self._keep(name, held.model_copy(update={"ends": at}))

    async def _check(self, arguments: dict[str, Any]) -> Any:
        return [finding.model_dump(mode="json") for finding in await self._driver.check()]

    async def _remove(self, arguments: dict[str, Any]) -> Any:
        ids = {holding.instance_id for holding in await self._driver.holdings()} | set(self._held)
        for name in ids:
            await self._end(name, None)

    # Within ---------------------------------------------------------------------------------------------------

    def _admit(self, spec: Spec) -> None:
        """Raise Forbidden, Unavailable or NoCapacity for what the terms do not allow now."""
        if not self._terms.admits(spec.owner):
            raise Forbidden(
                f"The owner of this machine does not let {spec.owner!r:.60} use it.",
                remedy="Ask for another machine.",
            )
        if not self._terms.hours.is_open(self._now().astimezone()):
            raise Unavailable(f"This machine {self._closed()}.")
        others = {held.owner for held in self._held.values()} - {spec.owner}
        if others and not self._terms.share and not self._terms.containers_only:
            raise NoCapacity("This machine serves one person at a time, and somebody is there.")

    def _narrow(self, spec: Spec) -> Spec:
        """Return what the driver is told: as much as was asked for and admitted, whatever offer is claimed for it.

        An instance in a container has its owner's own home. Without, the driver knows one account, the agent's.
        """
        asked = spec.request
        given = {"cpus": asked.cpus, "memory": max(asked.memory, LEAST), "gpus": asked.gpus}
        offer = spec.offer.model_copy(update={"shape": spec.offer.shape.model_copy(update=given)})
        owner = spec.owner if self._terms.containers_only else _account()
        return spec.model_copy(update={"owner": owner, "offer": offer})

    def _closed(self) -> str:
        return f"may only be used {self._terms.hours.text}"

    async def _look(self, handles: Mapping[str, Handle]) -> dict[str, Observation]:
        seen = dict(await self._driver.observe(handles))
        for name, one in seen.items():
            if one.phase is Phase.RUNNING and one.address is not None and name in self._held:
                self._addresses[name] = one.address
            elif one.phase is Phase.GONE:
                self._addresses.pop(name, None)
        return seen

    async def _end(self, name: str, handle: Handle | None) -> None:
        self._addresses.pop(name, None)
        await self._driver.destroy(name, handle)
        self._keep(name, None)

    async def _end_in_time(self) -> None:
        while True:
            for name, held in list(self._held.items()):
                try:
                    if why := held.over(self._now()):
                        log.warning("%s is ended: %s", name, why)
                        await self._end(name, held.handle)
                except GridcloudError as error:
                    log.warning("%s could not be ended: %s", name, error)
                except Exception:  # whatever it is, the hours of the machine hold for the others
                    log.exception("%s could not be ended", name)
            await asyncio.sleep(LOOK)

    async def _capacity(self) -> Shape:
        """Return all there is to give."""
        try:
            if self._whole is None:
                self._whole = max(
                    (offer.shape for offer in await self._driver.offers(ENORMOUS)), key=lambda one: one.cpus
                )
        except (GridcloudError, ValueError):
            return Shape(cpus=0, memory=0)
        return self._whole

    def _keep(self, name: str, held: _Held | None) -> None:
        if held is None:
            self._held.pop(name, None)
        else:
            self._held[name] = held
        text = json.dumps({one: value.model_dump(mode="json") for one, value in self._held.items()})
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._notes, text.encode(), 0o600)

    def _read(self) -> dict[str, _Held]:
        try:
            found = json.loads(self._notes.read_text())
        except FileNotFoundError:
            return {}
        return {name: _Held.model_validate(one) for name, one in found.items()}


def describe_terms(terms: Terms) -> str:
    """Return in a few words what a machine's owner allows."""
    words = [] if terms.users == ("*",) else [f"for {', '.join(terms.users)}"]
    words += [terms.hours.text] if terms.hours.text else []
    words += ["in containers only"] if terms.containers_only else []
    words += ["shared"] if terms.share else []
    return "; ".join(words)[:300]


def _make_driver(membership: Membership, folder: Path) -> InstanceDriver:
    terms = membership.terms
    caps = lowest(membership.caps, terms)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A limit of nothing is one: the least that a driver takes, in which nothing fits.
    given: dict[str, Any] = {
        name: value or least
        for name, value, least in (("cpus", caps.cpus, 1e-6), ("memory", caps.memory, 1))
        if value is not None
    }

    async def connect(address: Address) -> Connection:
        return await connections.open(address, _Keys())

    name = "container" if terms.containers_only else "local"
    if terms.containers_only:
        given |= {"image": terms.image, "images": ["*"]}
    elif caps.gpus is not None:
        given["gpus"] = caps.gpus
    kind = plugins.load("instances", name)
    settings: ProviderSettings = kind.Settings.model_validate({"driver": name, **given})
    driver: InstanceDriver = kind(settings, Context(PROVIDER, membership.installation, folder, connect, ""))
    return driver


def _account() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _tell(seen: Observation) -> dict[str, Any]:
    """Return what the service is told: where on the machine an instance lies, and never how it is reached here."""
    address = seen.address
    place = (
        {"directory": address.directory, "home": address.home}
        if isinstance(address, LocalAddress | ContainerAddress)
        else {}
    )
    return {"phase": seen.phase, "detail": seen.detail, **place}
