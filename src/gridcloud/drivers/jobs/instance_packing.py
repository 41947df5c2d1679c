"""Which machine a job is for: what is asked for, what still has room, and what has to be asked for beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import Field

from gridcloud.instances.model import FINAL, Instance, State
from gridcloud.jobs.driver import SchedulerSettings
from gridcloud.settings import Duration, Size
from gridcloud.settings.request import Kind, Request

__all__ = ["LEAVING", "InstanceJobsSettings", "Room", "machine_request", "measure_rooms", "suits"]

LEAVING = frozenset({State.STOPPING, State.FAILING}) | FINAL
"""States of a machine to which nothing is given any more."""
MARGIN = 120
"""Seconds that a machine lives longer than a job may take."""


class InstanceJobsSettings(SchedulerSettings):
    """Settings of jobs on machines that are got for them, packed, and ended once nobody needs them."""

    cpus: float = Field(
        default=1, gt=0, le=1_000_000, description="CPU cores of a machine, at least; more for a larger job"
    )
    memory: Size = Field(default=1 << 30, description="memory of a machine, at least; more for a larger job")
    disk: Size = Field(default=0, description="disk of a machine, at least; 0: whatever there is")
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs of a machine, at least")
    gpu_model: str = Field(default="", description="model of the GPUs, any part of its name")
    kind: Kind | None = Field(
        default=None, description="bare_metal, container or virtual_machine; any when not given"
    )
    image: str = Field(default="", description="image, for jobs that name none; the provider's own otherwise")
    on: str = Field(default="", description="provider whose machines are taken; any otherwise")
    max_price: Decimal | None = Field(default=None, ge=0, description="price of a machine per hour, at most")
    spot: bool = Field(default=False, description="take machines, too, that may be taken back at any time")
    machines: int = Field(default=4, ge=1, le=10_000, description="machines at once, at most")
    idle: Duration = Field(
        default=300, description="how long a machine is kept that no job needs, for those that may follow"
    )
    unattended: Duration = Field(
        default=6 * 3600,
        description="a machine that is idle for so long ends by itself, though nobody fetched what jobs left there: "
        "for when this service is away",
    )
    time: Duration = Field(default=0, description="longest life of a machine; 0: the longest allowed")


def machine_request(settings: InstanceJobsSettings, job: Request) -> Request:
    """Return what is asked for, so that a job can run there."""
    changes = {
        "cpus": max(settings.cpus, job.cpus),
        "memory": max(settings.memory, job.memory),
        "disk": max(settings.disk, job.disk),
        "gpus": max(settings.gpus, job.gpus),
        "gpu_model": job.gpu_model or settings.gpu_model,
        "kind": job.kind or settings.kind,
        "image": job.image or settings.image,
        "on": job.on or settings.on,
        "spot": job.spot or settings.spot,
        "max_price": settings.max_price if job.max_price is None else job.max_price,
        "time": settings.time and max(settings.time, job.time + 2 * MARGIN),
        "idle": settings.unattended,
    }
    return Request.model_validate(job.model_dump() | changes)


@dataclass(slots=True)
class Room:
    """A machine, and what of it is free."""

    machine: Instance
    cpus: float
    memory: int
    gpus: int
    devices: list[int] = field(default_factory=list)
    """Numbers of the free GPUs."""
    jobs: int = 0

    def take(self, request: Request) -> tuple[int, ...]:
        """Give a part of it to a job; return the numbers of its GPUs."""
        self.cpus -= request.cpus
        self.memory -= request.memory
        self.jobs += 1
        given, self.devices = self.devices[: request.gpus], self.devices[request.gpus :]
        self.gpus = len(self.devices)
        return tuple(given)

    def fits(self, request: Request) -> bool:
        """Tell whether a job fits beside those that are there."""
        return (
            request.cpus <= self.cpus + 1e-9 and request.memory <= self.memory and request.gpus <= self.gpus
        )


def measure_rooms(
    machines: Iterable[Instance], taken: Mapping[str, Sequence[tuple[Request, tuple[int, ...]]]]
) -> list[Room]:
    """Return what is free of each machine. ``taken``: what jobs there ask for, with the numbers of their GPUs."""
    rooms = []
    for machine in machines:
        if machine.state in LEAVING or machine.reclaimed:
            continue
        shape = machine.offer.shape if machine.offer is not None else machine.request
        jobs = taken.get(machine.id, ())
        used = {number for _, devices in jobs for number in devices}
        devices = [number for number in range(shape.gpus) if number not in used]
        cpus = shape.cpus - sum(request.cpus for request, _ in jobs)
        memory = shape.memory - sum(request.memory for request, _ in jobs)
        rooms.append(Room(machine, cpus, memory, len(devices), devices, len(jobs)))
    return rooms


def suits(machine: Instance, owner: str, wanted: Request, time: int, now: datetime) -> bool:
    """Tell whether a machine is what would be asked for, however much of it is free. ``time``: of the job, seconds."""
    has = machine.request
    alike = all(
        getattr(has, name) == getattr(wanted, name)
        for name in ("image", "kind", "location", "project", "on", "spot", "gpu_memory")
    )
    if machine.owner != owner or not alike or has.disk < wanted.disk:
        return False
    if wanted.gpus and wanted.gpu_model != has.gpu_model:
        return False
    if wanted.max_price is not None and (has.max_price is None or has.max_price > wanted.max_price):
        return False
    left = machine.expires is None or machine.expires - now > timedelta(seconds=time + MARGIN)
    return left or not time
