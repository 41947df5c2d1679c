"""Any cloud that Apache libcloud has a compute driver for: instances are its nodes.

What a driver of libcloud can do is found by its signatures. Cloud-init user data is needed: by it a machine is given
its host key, so that the first connection to it is verified. A driver without is refused.

Where nodes can be tagged, tags say whose they are. Where they cannot, only the name does, which anybody in the account
may change or copy: prefer a driver of gridcloud's own where there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.libcloud_choices import Choices
from gridcloud.drivers.instances.libcloud_nodes import Nodes
from gridcloud.drivers.instances.libcloud_settings import LibcloudSettings
from gridcloud.drivers.instances.libcloud_wire import Wire
from gridcloud.drivers.instances.libcloud_words import Abilities, Names, abilities_of, account_of, phase_of
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    QuotaExceeded,
    Transient,
)
from gridcloud.instances.bootstraps import dials
from gridcloud.instances.cloud import CloudDriver, address_of
from gridcloud.instances.driver import Context
from gridcloud.instances.model import (
    SHARED,
    Discovery,
    Finding,
    Handle,
    Holding,
    Observation,
    Offer,
    Phase,
    Request,
    Spec,
)
from gridcloud.settings import ProviderSettings

__all__ = ["LibcloudDriver"]

REMOVAL = 40.0
"""Seconds to wait until a node that is being removed is seen to be gone."""

SETTLING = 2.0
"""Seconds after which a node that was ended while it was being made is looked for again: OpenStack may show it once
more before it drops it."""


class LibcloudDriver(CloudDriver):
    """One account at one provider."""

    Settings: ClassVar[type[ProviderSettings]] = LibcloudSettings
    settings: LibcloudSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._names = Names(context.installation)
        self._wire = Wire(self.settings, context.secret)
        self._nodes = Nodes(self._names, self._wire.label)
        self._choices = Choices(self.settings, context.provider, self._wire)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._counting = asyncio.Lock()

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer the sizes that fit; see the contract."""
        return await self._wire.ask(lambda driver: self._choices.offers(driver, request, self._count(driver)))

    async def images(self) -> Sequence[str]:
        """Return the names of images that may be asked for, the default one first."""
        return [self.settings.image, *self.settings.images]

    async def discover(self) -> Discovery:
        """Return the images, sizes, locations and networks there are."""
        return await self._wire.ask(self._choices.discover)

    async def make(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        """Make a node, or find it by its tags or name; see the contract."""
        lock = self._locks.setdefault(spec.id, asyncio.Lock())

        def create(driver: Any) -> tuple[Any, bool, str]:
            return *self._create(driver, spec, user_data), self._account(driver)

        async with lock:
            if not self.settings.instances:
                node, listed, account = await self._wire.ask(create)
            else:
                async with self._counting:  # two at once must not both find the last place free
                    node, listed, account = await self._wire.ask(create)
        return self._nodes.handle(node, host_key, listed, account)

    async def look(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """List the nodes once, and ask for each by itself that is not listed; see the contract."""

        def look(driver: Any) -> dict[str, Any]:
            found = self._nodes.find(driver, handles)
            self._check_account(driver, *(handles[one] for one, node in found.items() if node is None))
            return found

        nodes = await self._wire.ask(look)
        return {
            instance_id: self._observation(instance_id, handle, nodes[instance_id])
            for instance_id, handle in handles.items()
        }

    async def remove(self, instance_id: str, handle: Handle | None) -> None:
        """Remove the nodes of this id; see the contract."""
        if instance_id == SHARED:
            return
        lock = self._locks.setdefault(instance_id, asyncio.Lock())
        async with lock:
            unmade = await self._wire.ask(lambda driver: self._nodes.end(driver, instance_id, handle))
            ends = time.monotonic() + REMOVAL
            for pause in (0.0, SETTLING) if unmade else (0.0,):
                await asyncio.sleep(pause)
                await self._see_gone(instance_id, handle, ends)

    async def holdings(self) -> Sequence[Holding]:
        """List our nodes; see the contract."""
        return [
            Holding(
                instance_id=instance_id,
                what="machine",
                name=str(node.name or node.id),
                created=_created(node),
            )
            for instance_id, nodes in (await self._wire.ask(self._nodes.list)).items()
            for node in nodes
        ]

    async def check(self) -> Sequence[Finding]:
        """Try the credentials, and say what libcloud's driver can do; see the contract."""
        subject = self.context.provider
        try:
            return await self._wire.ask(self._check)
        except GridcloudError as error:
            remedy = error.remedy or "Correct the provider's entry."
            return [Finding(subject=subject, ok=False, message=error.message, remedy=remedy)]

    async def close(self) -> None:
        """Let go of the connections; see the contract."""
        await asyncio.to_thread(self._wire.forget)

    async def _see_gone(self, instance_id: str, handle: Handle | None, ends: float) -> None:
        def remains(driver: Any) -> bool:
            there = self._nodes.remain(driver, instance_id, handle)
            if not there and handle is not None:
                self._check_account(driver, handle)
            return there

        while await self._wire.ask(remains):
            if time.monotonic() > ends:
                raise Transient(
                    f"{self.context.provider} still lists the machine of {instance_id}.",
                    remedy="It will be tried again.",
                )
            await asyncio.sleep(0.5)

    # What is asked in a thread -------------------------------------------------------------------------------

    def _account(self, driver: Any) -> str:
        return self._wire.remember("account", lambda: account_of(driver))

    def _check_account(self, driver: Any, *handles: Handle) -> None:
        """Raise InvalidSettings where the credentials are now of another account: in it none of these is seen."""
        for made_in in {str(one.data.get("account") or "") for one in handles} - {""}:
            here = self._account(driver)
            if here not in ("", made_in):
                raise InvalidSettings(
                    f"{self.context.provider}: the credentials are of another account, {here}; "
                    f"its machines are in {made_in}.",
                    remedy="Put right what 'arguments' refers to; a new account is an entry of its own.",
                )

    def _count(self, driver: Any) -> int:
        return len(self._nodes.list(driver)) if self.settings.instances else 0

    def _create(self, driver: Any, spec: Spec, user_data: str) -> tuple[Any, bool]:
        """Return the node of an instance, and whether a listing shows it."""
        abilities = self._choices.abilities(driver)
        held = self._nodes.list(driver)
        there = {str(node.id): node for node in held.get(spec.id, ())}
        listed = set(there)
        if not there:
            most = self.settings.instances
            if most and len(held) >= most:
                raise QuotaExceeded(f"{self.context.provider}: {len(held)} of {most} instances are taken.")
            made = driver.create_node(**self._arguments(driver, abilities, spec, user_data))
            seen = {str(node.id): node for node in self._seen(driver).get(spec.id, ())}
            listed, there = set(seen), {str(made.id): made, **seen}
        # Two that asked at once without knowing of each other may each have made one.
        first, *others = sorted(there)
        for name in others:
            driver.destroy_node(there[name])
        return there[first], first in listed

    def _seen(self, driver: Any) -> dict[str, list[Any]]:
        try:
            return self._nodes.list(driver)
        except Exception:  # each driver has its own: the node is made and must not be lost for that
            return {}

    def _arguments(self, driver: Any, abilities: Abilities, spec: Spec, user_data: str) -> dict[str, Any]:
        choice = spec.offer.choice
        arguments: dict[str, Any] = {
            "name": self._names.name(spec.id),
            "size": self._choices.size(driver, str(choice.get("size", ""))),
            "image": self._choices.libcloud_image(driver, spec.offer.image),
        }
        if choice.get("location"):
            there = {str(one.id): one for one in self._choices.locations(driver)}
            if choice["location"] not in there:
                raise InvalidRequest(
                    f"{self.context.provider}: that location is gone.", remedy="Ask for offers again."
                )
            arguments["location"] = there[choice["location"]]
        networks = self._choices.chosen_networks(driver)
        if networks:
            arguments |= _network_arguments(abilities, networks, self.context.provider)
        if "ex_assign_public_ip" in abilities.arguments:
            arguments["ex_assign_public_ip"] = self.settings.public_address
        if abilities.token:
            arguments[abilities.token] = self._names.name(spec.id)
        arguments |= self.settings.create
        if abilities.tags:
            given = self.settings.create.get("ex_metadata") or {}
            arguments["ex_metadata"] = {**given, **self._names.tags(spec.id)}
        for name, value in abilities.user_data_arguments(user_data).items():
            arguments[name] = {**arguments.get(name, {}), **value} if isinstance(value, dict) else value
        return arguments

    def _check(self, driver: Any) -> list[Finding]:
        subject, name = self.context.provider, self._wire.label
        nodes = driver.list_nodes()
        abilities = abilities_of(driver, self.settings.user_data)
        ours = sum(bool(self._names.instance_of(node)) for node in nodes)
        findings = [
            _good(subject, f"{name} answers: {len(nodes)} nodes in the account, {ours} of them ours"),
            _good(
                subject,
                "nodes are ours by their tags"
                if abilities.tags
                else "nodes cannot be tagged: they are ours by their names, which others in the account could copy",
            ),
        ]
        can = [
            word for word, has in (("locations", abilities.locations), ("volumes", abilities.volumes)) if has
        ]
        can += [f"logs in by {word}" for word in abilities.logs_in_by]
        findings.append(_good(subject, f"{name} has beside that: {', '.join(can) or 'nothing'}"))
        if abilities.user_data:
            findings.append(_good(subject, f"host keys are pinned by user data ({abilities.user_data})"))
        for look in (self._choices.abilities, self._check_choices):
            try:
                look(driver)
            except GridcloudError as error:
                remedy = error.remedy or "Correct the provider's entry."
                findings.append(Finding(subject=subject, ok=False, message=error.message, remedy=remedy))
        unknown = self._choices.unknown_cpus(driver)
        if unknown:
            text = (
                f"of {len(unknown)} sizes the CPUs are not known, and 1 is assumed: {', '.join(unknown[:5])}"
            )
            remedy = "Say them in 'sizes'."
            findings.append(Finding(subject=subject, ok=True, known=False, message=text, remedy=remedy))
        return findings

    def _check_choices(self, driver: Any) -> None:
        self._choices.image(driver, self.settings.image)
        self._choices.places(driver, abilities_of(driver, self.settings.user_data), Request())
        self._choices.chosen_networks(driver)

    def _observation(self, instance_id: str, handle: Handle, node: Any) -> Observation:
        if isinstance(node, GridcloudError):
            return Observation(phase=Phase.PENDING, detail=str(node))
        if node is None:
            return Observation(phase=Phase.GONE)
        phase = phase_of(node)
        if phase is Phase.FAILED:
            said = str(
                (node.extra or {}).get("fault")
                or f"the machine is {node.state}: it was powered off, or failed"
            )
            return Observation(phase=phase, detail=said[:500])
        address = self._address(instance_id, handle, node) if phase is Phase.RUNNING else None
        if phase is not Phase.RUNNING or (address is None and not dials(handle)):
            return Observation(phase=Phase.PENDING, detail=f"{node.state}, without an address yet")
        return Observation(phase=phase, address=address, detail=str(node.state))

    def _address(self, instance_id: str, handle: Handle, node: Any) -> SSHAddress | None:
        hosts = [*node.public_ips, *node.private_ips] if self.settings.public_address else node.private_ips
        host = next((str(one) for one in hosts if one), "")
        if not host:
            return None
        return address_of(self.settings, instance_id, host, str(handle.data.get("host_key", "")))


def _network_arguments(abilities: Abilities, networks: list[Any], provider: str) -> dict[str, Any]:
    """Return how create_node takes networks: each driver of libcloud has its own way."""
    if "networks" in abilities.arguments:
        return {"networks": networks}
    for name in ("ex_subnet", "ex_network", "ex_networks"):
        if name in abilities.arguments:
            return {name: networks if name.endswith("s") else networks[0]}
    raise InvalidSettings(
        f"{provider}: create_node of libcloud's driver takes no network.",
        remedy="Remove 'networks' from the entry.",
    )


def _created(node: Any) -> datetime | None:
    found = getattr(node, "created_at", None)
    return found if isinstance(found, datetime) and found.tzinfo is not None else None


def _good(subject: str, message: str) -> Finding:
    return Finding(subject=subject, ok=True, message=message)
