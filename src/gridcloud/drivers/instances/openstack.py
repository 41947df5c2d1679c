"""An OpenStack project: instances are servers of nova, reached by a floating address or through a machine between.

Credentials stay in clouds.yaml. What the project may still have is asked for before anything is made, and told with
figures. Everything made carries our marks (`openstack_things`), and nothing without them is ever touched.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.openstack_check import examine
from gridcloud.drivers.instances.openstack_choices import Choices
from gridcloud.drivers.instances.openstack_cloud import Cloud
from gridcloud.drivers.instances.openstack_settings import OpenStackSettings
from gridcloud.drivers.instances.openstack_things import Plan, Removal, Things
from gridcloud.drivers.instances.openstack_words import explain_shortage
from gridcloud.drivers.openstack import another_project
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Transient,
)
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

__all__ = ["OpenStackDriver"]

T = TypeVar("T")

RUNNING = frozenset({"ACTIVE", "PASSWORD", "REBOOT", "HARD_REBOOT", "RESIZE", "VERIFY_RESIZE", "MIGRATING"})
ENDED = frozenset({"SHUTOFF", "SUSPENDED", "PAUSED", "SHELVED", "SHELVED_OFFLOADED", "RESCUE"})
GONE = frozenset({"DELETED", "SOFT_DELETED"})

REMOVAL = 45.0
"""Seconds that a removal waits for nova to be done with a server."""

SETTLING = 2.0
"""Seconds after which a server that was ended while it was being made is looked for again: between its request, which
is taken back, and the cell that is to make it, nova may show it once more."""

PAUSE = 0.5
"""Seconds between two looks whether it is."""

_asked: dict[str, dict[str, Mapping[str, int]]] = {}
"""What was found free for instances that nova does not count yet, by project and instance."""
_asking = threading.Lock()


class OpenStackDriver(CloudDriver):
    """One project in one region."""

    Settings: ClassVar[type[ProviderSettings]] = OpenStackSettings
    settings: OpenStackSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._cloud = Cloud(self.settings)
        self._things = Things(self._cloud, context.installation, context.provider)
        self._choices = Choices(self._cloud, context.provider)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer the flavors that fit, with what the project's quotas leave; see the contract."""
        return await self._ask(lambda: self._choices.offers(request, lambda: len(self._things.servers())))

    async def images(self) -> Sequence[str]:
        """Return the names of images that may be asked for, the default one first."""
        return await self._ask(self._choices.images)

    async def discover(self) -> Discovery:
        """Return the project's images, flavors, zones and networks."""
        return await self._ask(self._choices.discover)

    async def make(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        """Make port, floating address and server; see the contract."""
        lock = self._locks.setdefault(spec.id, asyncio.Lock())
        async with lock:
            return Handle(data=await self._ask(lambda: self._create(spec, user_data, host_key)))

    async def look(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Ask for all of ours in one call, and for each by itself that this one does not show; see the contract."""
        wanted = {instance_id: str(handle.data.get("server")) for instance_id, handle in handles.items()}

        def look() -> dict[str, Any]:
            self._check_project(*handles.values())
            return self._things.find(wanted)

        servers = await self._ask(look)
        return {
            instance_id: self._observation(instance_id, handle, servers[instance_id])
            for instance_id, handle in handles.items()
        }

    async def remove(self, instance_id: str, handle: Handle | None) -> None:
        """Remove server, volume, floating address and port, and with the last instance the security group."""
        lock = self._locks.setdefault(instance_id, asyncio.Lock())
        async with lock:
            if instance_id == SHARED:
                await self._ask(self._things.remove_shared)
            else:
                await self._remove(instance_id, handle)

    async def holdings(self) -> Sequence[Holding]:
        """List our servers, ports, floating addresses and security groups; see the contract."""
        return [
            Holding(instance_id=thing.id, what=thing.what, name=thing.name, created=thing.created)
            for thing in await self._ask(self._things.all)
        ]

    async def check(self) -> Sequence[Finding]:
        """Try credentials, quotas, image, shapes and networks; see the contract."""
        return await asyncio.to_thread(examine, self._cloud, self._choices)

    async def close(self) -> None:
        """Let go of the connection; see the contract."""
        await asyncio.to_thread(self._cloud.close)

    async def _remove(self, instance_id: str, handle: Handle | None) -> None:
        def begin() -> Removal:
            self._check_project(*([handle] if handle else []))
            return self._things.begin_removal(instance_id, server)

        # Waited for here: a thread that sleeps would keep the others of this process waiting.
        server = str(handle.data.get("server") or "") if handle else ""
        removal = await self._ask(begin)
        deadline = time.monotonic() + REMOVAL
        for pause in (0.0, SETTLING) if removal.unmade else (0.0,):
            await asyncio.sleep(pause)
            while remaining := await self._ask(lambda: self._things.remaining(removal)):
                if time.monotonic() > deadline:
                    raise Transient(
                        f"{self.context.provider} is still removing the server {remaining}.",
                        remedy="It will be tried again; if it stays, ask the cloud's operators to remove it.",
                    )
                await asyncio.sleep(PAUSE)
        await self._ask(lambda: self._things.finish_removal(removal))

    def _check_project(self, *handles: Handle) -> None:
        """Raise InvalidSettings where the credentials are now of another project: in it nothing of these is seen."""
        here = self._cloud.project()
        for handle in handles:
            made_in = handle.data.get("project", here)
            if made_in != here:
                self._cloud.close()
                raise another_project(self.context.provider, here, made_in, "machines")

    async def _ask(self, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(self._cloud.ask, call)

    def _address(self, instance_id: str, handle: Handle) -> SSHAddress:
        host, key = str(handle.data.get("host", "")), str(handle.data.get("host_key", ""))
        return address_of(self.settings, instance_id, host, key)

    def _observation(self, instance_id: str, handle: Handle, server: Any) -> Observation:
        if isinstance(server, GridcloudError):  # nothing is known of this one
            return Observation(phase=Phase.PENDING, detail=str(server))
        if server is None or server.status in GONE:
            return Observation(phase=Phase.GONE)
        if server.status in RUNNING:
            return Observation(
                phase=Phase.RUNNING, address=self._address(instance_id, handle), detail=server.status
            )
        if server.status == "ERROR":
            fault = server.fault or {}
            return Observation(
                phase=Phase.FAILED, detail=str(fault.get("message") or "nova says ERROR and no more")
            )
        if server.status in ENDED:
            return Observation(
                phase=Phase.FAILED, detail=f"the machine is {server.status}: it was powered off"
            )
        return Observation(
            phase=Phase.PENDING, detail=" ".join(filter(None, (server.status, server.task_state)))
        )

    # Creation

    def _create(self, spec: Spec, user_data: str, host_key: str) -> dict[str, Any]:
        found = self._things.found(spec.id)
        if found is None:
            plan = self._plan(spec, user_data)
            with self._reserved(spec, plan):
                found = self._make(plan)
        return {**found, "host_key": host_key, "project": self._cloud.project()}

    def _plan(self, spec: Spec, user_data: str) -> Plan:
        choice = spec.offer.choice
        try:
            return Plan(
                id=spec.id,
                owner=spec.owner,
                title=spec.name,
                flavor=choice["flavor"],
                image=choice["image"],
                network=choice["network"],
                secured=choice["secured"],
                external=choice["external"],
                zone=choice["zone"],
                volume=choice["volume"],
                user_data=user_data,
            )
        except KeyError as error:
            raise InvalidRequest(
                f"{self.context.provider} did not make this offer: it says no {error}.",
                remedy="Ask for offers again.",
            ) from error

    def _make(self, plan: Plan) -> dict[str, Any]:
        """Make it; where the answer is not clear, look whether it is there after all."""
        try:
            return self._cloud.ask(lambda: self._things.make(plan))
        except Transient as error:
            for pause in (0.0, 2.0):
                time.sleep(pause)
                try:
                    found = self._cloud.ask(lambda: self._things.found(plan.id))
                except GridcloudError:
                    continue
                if found is not None:
                    return found
            raise error
        except NotFound as error:
            self._cloud.forget()
            raise InvalidRequest(
                f"{error.message} It was there when the offer was made.", remedy="Ask for offers again."
            ) from error

    @contextmanager
    def _reserved(self, spec: Spec, plan: Plan) -> Any:
        """See that the quotas leave what is needed, those asked for at this moment counted in.

        Nova counts a server only when its scheduler has seen it: two that ask at once would both be let in, and one
        would fail later. Raises QuotaExceeded with figures.
        """
        needs = self._choices.needs(spec.offer.shape, plan.volume, bool(plan.external))
        project = self._cloud.project()
        with _asking:
            servers = self._things.servers()
            asked = _asked.setdefault(project, {})
            uncounted = [
                self._choices.needs_of_server(one)
                for one in servers
                if one.status == "BUILD" and one.task_state == "scheduling"
            ]
            quotas = self._choices.quotas(bool(plan.volume), bool(plan.external))
            taken = [*asked.values(), *uncounted]
            total = {what: amount + sum(one.get(what, 0) for one in taken) for what, amount in needs.items()}
            why = explain_shortage(quotas, total) or self._choices.explain_full(len(servers) + len(asked))
            if why:
                raise QuotaExceeded(
                    f"{self.context.provider}: {why}.",
                    remedy="End something, take a smaller shape, or ask the cloud's operators for a larger quota.",
                )
            asked[spec.id] = needs
        try:
            yield
        finally:
            with _asking:
                asked.pop(spec.id, None)
