"""Virtual machines of QEMU, on this computer or on a host that is reached by SSH.

Each machine is a process tree of its own on the host, which outlives us: a supervisor that ends it at its expiry, and
QEMU, whose disk lies over an image that stays as it is. What is taken is written on the host, under a lock there, so
that several brokers may use one host. The machine's SSH server is a port of the host's own 127.0.0.1; its host key is
made here and pinned. Nothing needs to be installed on a host but QEMU. With `agent`, a machine has no such port: its
first boot starts an agent that dials us.

GPUs are given by PCI passthrough (vfio-pci). That has been tried on no real GPU yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import ClassVar

from gridcloud.connections.model import LocalAddress, SSHAddress
from gridcloud.drivers.instances.qemu_check import check_host
from gridcloud.drivers.instances.qemu_command import Accelerator, machine_words, trial_words
from gridcloud.drivers.instances.qemu_host import SCRIPT, Facts, Look, QEMUHost, Survey
from gridcloud.drivers.instances.qemu_seed import render_seed
from gridcloud.drivers.instances.qemu_settings import QEMUImage, QEMUSettings
from gridcloud.errors import GridcloudError, InvalidRequest, InvalidSettings, Rejected, Transient
from gridcloud.instances.bootstraps import AgentBoot, forget, found_by_agents, mark, prepared_agent
from gridcloud.instances.cloud import GRACE
from gridcloud.instances.driver import Context, Handing, InstanceDriver
from gridcloud.instances.first_boot import FirstBoot, HostKeys, principal_of
from gridcloud.instances.matching import describe, shortfall
from gridcloud.instances.model import (
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
    Step,
    format_size,
)
from gridcloud.settings import ProviderSettings

__all__ = ["QEMUDriver"]

LEAST = 512 * 1024**2
"""Memory below which no image for clouds boots."""

LITTLE_DISK = 256 * 1024**2
"""What must be free on the host's disk for a machine to be made; below it, running ones are soon refused writes."""

MAKE_SECONDS = 50.0
"""Waiting for the lock on the host, and for QEMU to run."""

REMOVE_SECONDS = 40.0


class QEMUDriver(Handing, InstanceDriver):
    """The provider."""

    Settings: ClassVar[type[ProviderSettings]] = QEMUSettings
    settings: QEMUSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._hosts: dict[str, QEMUHost] = {}
        self._keys = HostKeys(context.folder)

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer a machine as asked, of whole CPUs; see the contract."""
        host = self._host()
        facts, survey = await self._facts(host), await host.survey(self._tag)
        whole = self._whole(facts, survey)
        why = self._never(request) or shortfall(request, whole) or _unable(self.settings, facts)
        if why:
            return [self._offer(request, whole, facts, why_not=why, possible=False)]
        shape = self._shape(request)
        offer = self._offer(request, shape, facts, why_not=self._why_full(shape, request, whole, survey))
        part = max(
            shape.cpus / whole.cpus, shape.memory / whole.memory, shape.gpus / whole.gpus if whole.gpus else 0
        )
        return [
            offer.model_copy(
                update={"price": (self.settings.price * Decimal(part)).quantize(Decimal("0.0001"))}
            )
        ]

    async def images(self) -> Sequence[str]:
        """Return the names of the images, the default one first."""
        return list(dict.fromkeys([self.settings.default_image, *self.settings.images]))

    async def create(self, spec: Spec) -> Handle:
        """Reserve what it takes on the host and start it; see the contract. An image from elsewhere is fetched while
        the machine is PENDING. Raises InvalidRequest for an image that is not there."""
        name, image = self._image(spec.request)
        host = self._host()
        facts = await self._facts(host)
        if why := _unable(self.settings, facts):
            raise InvalidSettings(f"{host.name}: {why}.", remedy="See 'gridcloud provider check'.")
        door = self.settings.agent
        async with prepared_agent(self.context, spec.id, spec.request, door) as agent:
            return mark(await self._make(spec, host, facts, name, image, agent), door)

    async def _make(
        self, spec: Spec, host: QEMUHost, facts: Facts, name: str, image: QEMUImage, agent: AgentBoot | None
    ) -> Handle:
        key = self._keys.key(spec.id)
        seed = render_seed(
            FirstBoot(
                instance_id=spec.id,
                host_key=key,
                user_authority=self.context.user_authority,
                user=self.settings.user,
                sudo=self.settings.sudo,
                idle=spec.request.idle,
                run=(self.settings.boot_script,) if self.settings.boot_script else (),
                agent=agent,
            )
        )
        shape, accelerator = self._shape(spec.request), self._accelerator(facts)
        words = machine_words(self.settings, image, spec.id, accelerator, shape.cpus, shape.memory)
        values = {
            **self._reserve_values(spec, shape, self._whole(facts, None)),
            **self._start_values(image, accelerator, spec.request),
            "bytes": len(seed),
            "text": SCRIPT,
        }
        answer = await host.run("make", values, words, seed, seconds=MAKE_SECONDS)
        place = dict(line.partition(" ")[::2] for line in answer.splitlines()).get("place", "")
        return self._handle(host, place, key.public, name)

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Look at each host once; see the contract."""
        seen: dict[str, Survey] = {}
        found = {}
        for instance_id, handle in handles.items():
            host = self._holder(handle)
            survey = seen.get(host.name)
            if survey is None:
                survey = seen[host.name] = await host.survey(self._tag)
            found[instance_id] = self._observation(instance_id, handle, host, survey)
        return await found_by_agents(self.context, handles, found)

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """End its processes and remove its files; see the contract."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{2,40}", instance_id):
            raise Rejected(f"{instance_id!r} is not an instance id.")
        host = self._holder(handle) if handle is not None else self._host()
        try:
            await host.run("remove", {"tag": self._tag, "id": instance_id}, seconds=REMOVE_SECONDS)
            await forget(self.context, instance_id)
        except InvalidSettings:
            raise
        except GridcloudError as error:
            raise Transient(
                f"It is not certain that {instance_id} is gone from {host.name}: {error.message}",
                remedy=error.remedy,
            ) from error

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Tell its supervisor on the host when to end it: at most two seconds late, whatever the machine does."""
        seconds = max(0, math.ceil((at - datetime.now(UTC)).total_seconds()))
        await self._holder(handle).run("arm", {"tag": self._tag, "id": instance_id, "seconds": seconds})

    async def holdings(self) -> Sequence[Holding]:
        """List all machines of this installation on the host; see the contract."""
        host = self._host()
        survey = await host.survey(self._tag)
        found = [
            Holding(
                instance_id=one.instance_id,
                what="machine",
                name=f"{host.name}:{survey.directory}/{self._tag}/{one.instance_id}",
                created=datetime.fromtimestamp(one.created, UTC) if one.created else None,
                handle=self._handle(
                    host,
                    f"{survey.directory}/{self._tag}/{one.instance_id}",
                    self._keys.key(one.instance_id).public,
                    "",
                ),
            )
            for one in survey.reservations
            if one.installation == self._tag
        ]
        halves = [name for name, look in survey.looks.items() if look.half]
        return [
            *found,
            *(
                Holding(instance_id=name, what="folder", name=f"{survey.directory}/{self._tag}/{name}")
                for name in halves
            ),
        ]

    async def check(self) -> Sequence[Finding]:
        """Look at the host, its QEMU, its images and its GPUs; see the contract."""
        try:
            host = self._host()
            host.forget()
            facts, survey = await self._facts(host), await host.survey(self._tag)
            return check_host(host.name, self.settings, facts, survey, _unable(self.settings, facts))
        except GridcloudError as error:
            remedy = error.remedy or "Is the host on, and may it be reached from here?"
            return [Finding(subject=self.context.provider, ok=False, message=error.message, remedy=remedy)]

    async def close(self) -> None:
        """Close the connections."""
        hosts, self._hosts = self._hosts, {}
        for host in hosts.values():
            await host.close()

    # The host

    @property
    def _tag(self) -> str:
        tag = self.context.installation
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", tag) and tag not in {"images", "lock"}:
            return tag
        raise InvalidSettings(f"{tag!r} cannot be the name of a folder.")

    def _host(self) -> QEMUHost:
        """Return the host of the configuration. Raises InvalidSettings when the known_hosts file cannot be read."""
        if self.settings.host is None:
            folder = LocalAddress(directory=str(self.context.folder))
            return self._kept("this computer", folder, self.settings.directory)
        address = self.settings.host.address("", self.settings.known_hosts)
        return self._kept(self.settings.host.label, address, self.settings.directory)

    def _holder(self, handle: Handle) -> QEMUHost:
        """Return the host of something made earlier, which may have left the configuration since."""
        here, data = self._host(), handle.data
        if (here.name, here.directory) == (data["host"], data["directory"]):
            return here
        address: LocalAddress | SSHAddress = LocalAddress(directory=str(self.context.folder))
        if data["address"]:
            address = SSHAddress.model_validate(data["address"])
        return self._kept(data["host"], address, data["directory"])

    def _kept(self, name: str, address: LocalAddress | SSHAddress, directory: str) -> QEMUHost:
        place = f"{name}:{directory}"
        host = self._hosts.get(place)
        if host is None or host.address != address:
            host = self._hosts[place] = QEMUHost(name, address, directory, self.context)
        return host

    async def _facts(self, host: QEMUHost) -> Facts:
        settings = self.settings
        named = [path for one in settings.images.values() for path in one.paths]
        gpus = [_full_address(one) for one in settings.gpus]
        return await host.facts(settings.program, gpus, named, trial_words(settings.program))

    def _handle(self, host: QEMUHost, place: str, host_key: str, image: str) -> Handle:
        address = host.address.model_dump(mode="json") if isinstance(host.address, SSHAddress) else None
        return Handle(
            data={
                "host": host.name,
                "directory": host.directory,
                "address": address,
                "place": place,
                "host_key": host_key,
                "image": image,
            }
        )

    # Offers

    def _never(self, request: Request) -> str:
        """Return why a request can never be served here, whatever is free; empty when it can."""
        if request.kind not in (None, Kind.VIRTUAL_MACHINE):
            return f"is a virtual machine, a {request.kind.replace('_', ' ')} was asked"
        if request.image and request.image not in self.settings.images:
            return f"it has no image {request.image!r:.120}; there are {', '.join(self.settings.images)}"
        return ""

    def _whole(self, facts: Facts, survey: Survey | None) -> Shape:
        """Return what the host has to give while nothing is taken."""
        settings = self.settings
        memory = facts.memory * 7 // 8 if settings.memory is None else min(settings.memory, facts.memory)
        return Shape(
            cpus=min(settings.cpus or facts.cpus, facts.cpus),
            memory=memory,
            disk=survey.disk if survey else 0,
            gpus=len(settings.gpus),
            gpu_model=settings.gpu_model,
            gpu_memory=settings.gpu_memory,
        )

    def _shape(self, request: Request) -> Shape:
        return Shape(
            cpus=math.ceil(request.cpus),
            memory=max(request.memory, LEAST),
            disk=max(request.disk, self.settings.disk),
            gpus=request.gpus,
            gpu_model=self.settings.gpu_model if request.gpus else "",
            gpu_memory=self.settings.gpu_memory if request.gpus else 0,
        )

    def _why_full(self, shape: Shape, request: Request, whole: Shape, survey: Survey) -> str:
        live = survey.live()
        cpus = whole.cpus - sum(one.cpus for one in live)
        memory = whole.memory - sum(one.memory for one in live)
        gpus = whole.gpus - sum(len(one.gpus) for one in live)
        if self.settings.machines and len(live) >= self.settings.machines:
            return f"{len(live)} of {self.settings.machines} machines are there"
        if shape.cpus > cpus:
            return f"{max(cpus, 0):g} of {whole.cpus:g} CPUs are free"
        if shape.memory > memory:
            return f"{format_size(max(memory, 0))} of {format_size(whole.memory)} of memory are free"
        if shape.gpus > gpus:
            return f"{max(gpus, 0)} of {whole.gpus} GPUs are free"
        if survey.disk_free < request.disk + LITTLE_DISK:
            return f"{format_size(survey.disk_free)} of disk are free"
        return ""

    def _offer(
        self, request: Request, shape: Shape, facts: Facts, *, why_not: str = "", possible: bool = True
    ) -> Offer:
        name = request.image or self.settings.default_image
        host = self.settings.host.label if self.settings.host else "this computer"
        whose = "asked for" if request.image else "the provider's default"
        network = "outwards, and to the host" if self.settings.outbound else "none but its SSH port"
        fits = f"whole CPUs, at least {format_size(LEAST)}; {self._accelerator(facts)}"
        return Offer(
            provider=self.context.provider,
            kind=Kind.VIRTUAL_MACHINE,
            shape=shape,
            location=self.settings.location,
            image=name,
            available=not why_not,
            why_not=why_not,
            possible=possible,
            steps=(
                Step(step="image", chosen=name, why=whose),
                Step(step="shape", chosen=describe(shape), why=fits),
                Step(step="location", chosen=host, why="the provider's only host"),
                Step(step="network", chosen=network, why="the provider's setting 'outbound'"),
            ),
        )

    # One life

    def _image(self, request: Request) -> tuple[str, QEMUImage]:
        name = request.image or self.settings.default_image
        if name not in self.settings.images:
            raise InvalidRequest(f"{self.context.provider}: {self._never(request)}.")
        return name, self.settings.images[name]

    def _accelerator(self, facts: Facts) -> Accelerator:
        if self.settings.accelerator == "auto":
            return "kvm" if facts.kvm == "yes" else "tcg"
        return self.settings.accelerator

    def _reserve_values(self, spec: Spec, shape: Shape, whole: Shape) -> dict[str, object]:
        return {
            "tag": self._tag,
            "id": spec.id,
            "cpus": int(shape.cpus),
            "memory": shape.memory,
            "gpus": shape.gpus,
            "need": spec.request.disk,
            "seconds": spec.request.time + GRACE if spec.request.time else 0,
            "all_cpus": int(whole.cpus),
            "all_memory": whole.memory,
            "all_machines": self.settings.machines,
            "all_gpus": ",".join(_full_address(one) for one in self.settings.gpus),
        }

    def _start_values(
        self, image: QEMUImage, accelerator: Accelerator, request: Request
    ) -> dict[str, object]:
        return {
            "program": self.settings.program,
            "source": image.source,
            "sha256": image.sha256,
            "format": image.format,
            "kernel": image.kernel,
            "initrd": image.initrd,
            "size": max(request.disk, self.settings.disk),
            "accelerator": accelerator,
            "confine": "yes" if self.settings.confine else "no",
            "first": 0 if self.settings.agent else self.settings.ports[0],
            "last": 0 if self.settings.agent else self.settings.ports[1],
        }

    def _observation(self, instance_id: str, handle: Handle, host: QEMUHost, survey: Survey) -> Observation:
        wanted = (self._tag, instance_id)
        one = next(
            (one for one in survey.reservations if (one.installation, one.instance_id) == wanted), None
        )
        look = survey.looks.get(instance_id, Look())
        if one is None:
            return Observation(phase=Phase.GONE, detail=f"{host.name} holds it no longer")
        if one.boot and one.boot != survey.boot:
            return Observation(phase=Phase.GONE, detail=f"{host.name} was started anew since it was made")
        if look.ended:
            code, _, words = look.ended.partition(" ")
            phase = Phase.GONE if code == "0" else Phase.FAILED
            return Observation(phase=phase, detail=_with_console(words, look))
        if look.panicked:
            return Observation(phase=Phase.FAILED, detail=_with_console("its kernel panicked", look))
        if not look.supervised:
            why = "it was killed on its host" if look.ran else "it was broken off while it was made"
            return Observation(phase=Phase.FAILED, detail=_with_console(why, look))
        if not look.running:
            now = "it has just ended" if look.ran else f"it is being made on {host.name}"
            return Observation(phase=Phase.PENDING, detail=look.progress or now)
        full = survey.disk_free < LITTLE_DISK
        address = (
            SSHAddress(
                host="127.0.0.1",
                port=look.port,
                user=self.settings.user,
                host_keys=(handle.data["host_key"],),
                principal=principal_of(instance_id),
                jump=host.address if isinstance(host.address, SSHAddress) else None,
            )
            if look.port
            else None
        )
        words = f"the disk of {host.name} is full: only {format_size(survey.disk_free)} are free"
        return Observation(phase=Phase.RUNNING, address=address, detail=words if full else "")


def _unable(settings: QEMUSettings, facts: Facts) -> str:
    """Return why the host can start no machine at all; empty when it can."""
    lacking = [
        name for name in (settings.program, "qemu-img", "flock", "setsid") if name not in facts.programs
    ]
    if lacking:
        return f"{', '.join(lacking)} is missing there"
    if settings.accelerator == "kvm" and facts.kvm != "yes":
        return f"KVM cannot be used: {facts.kvm}"
    return ""


def _with_console(words: str, look: Look) -> str:
    return f"{words}; its console says: {look.console}" if look.console else words


def _full_address(address: str) -> str:
    """Return a PCI address with its domain, as the kernel names it."""
    return address if address.count(":") == 2 else f"0000:{address}"
