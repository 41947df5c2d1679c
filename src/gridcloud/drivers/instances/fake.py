"""A provider that has machines of any shape, as slow and as faulty as asked, and keeps its word otherwise.

It stands for a cloud in tests, demonstrations and benchmarks: a real implementation of the contract, whose
instances are folders on this computer in which commands run. What it "has running" lives in ``state.json`` in its
folder, written whole and under a lock, so that it outlives a broker killed at any point, as a cloud's would. ::

    providers:
      slow-cloud:
        driver: fake
        kind: virtual_machine
        shapes:
          - {name: small, cpus: 2, memory: 4GiB, count: 3, price: 0.1}
          - {name: gpu, cpus: 16, memory: 64GiB, gpus: 1, gpu_model: H100, gpu_memory: 80GiB, count: 1, price: 3}
        latency: 200
        boot_seconds: 5
        faults:
          - {call: create, error: no-capacity, times: 2}
          - {call: observe, error: unreachable, times: always, probability: 0.1}
        seed: 7
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gridcloud.connections.model import LocalAddress
from gridcloud.errors import (
    GridcloudError,
    NoCapacity,
    QuotaExceeded,
    Rejected,
    Throttled,
    Unreachable,
)
from gridcloud.instances.driver import Handing, InstanceDriver
from gridcloud.instances.matching import shortfall
from gridcloud.instances.model import (
    Discovery,
    Finding,
    Found,
    Handle,
    Holding,
    Kind,
    Observation,
    Offer,
    Phase,
    Request,
    Shape,
    Spec,
    parse_size,
)
from gridcloud.settings import ProviderSettings

__all__ = ["FakeDriver", "FakeSettings", "FakeShape", "Fault"]

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Call = Literal["offers", "create", "observe", "destroy", "holdings"]


class FakeShape(BaseModel):
    """One size of machine, and how many of it there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="standard", description="name of the shape")
    cpus: float = Field(default=4, gt=0, description="CPU cores")
    memory: Size = Field(default=16 * 1024**3, description="memory, e.g. 16GiB")
    disk: Size = Field(default=100 * 1024**3, description="disk, e.g. 100GiB")
    gpus: int = Field(default=0, ge=0, description="GPUs")
    gpu_model: str = Field(default="", description="model of the GPUs")
    gpu_memory: Size = Field(default=0, description="memory of each GPU, e.g. 80GiB")
    count: int = Field(default=100, ge=0, description="how many machines of this shape there are")
    price: Decimal | None = Field(
        default=None, ge=0, description="price per hour; the provider's when not given"
    )
    priced: bool = Field(default=True, description="whether its price is known")

    def shape(self) -> Shape:
        """Return it as offers name it."""
        return Shape.model_validate(self.model_dump(exclude={"count", "price", "priced"}))


class Fault(BaseModel):
    """Something that goes wrong in a call, a number of times or always, for sure or by chance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call: Call = Field(description="the call that fails: offers, create, observe, destroy or holdings")
    error: Literal["no-capacity", "quota", "unreachable", "throttled", "rejected", "crash-after", "hang"] = (
        Field(
            description="how it fails; crash-after does what was asked and then answers as if the line had been cut; "
            "hang never answers"
        )
    )
    times: int | Literal["always"] = Field(
        default=1, description="how often it fails, or always; kept over restarts"
    )
    probability: float = Field(
        default=1, gt=0, le=1, description="chance of each failure, by the provider's seed"
    )


class FakeSettings(ProviderSettings):
    """Settings of a fake provider."""

    shapes: tuple[FakeShape, ...] = Field(default=(FakeShape(),), description="the machines there are")
    kind: Kind = Field(default=Kind.VIRTUAL_MACHINE, description="what its instances are said to be")
    images: tuple[str, ...] = Field(default=(), description="images there are; empty: any image will do")
    latency: float = Field(default=0, ge=0, description="milliseconds that every call takes")
    boot_seconds: float = Field(
        default=0, ge=0, description="seconds from creation until an instance can be reached"
    )
    faults: tuple[Fault, ...] = Field(
        default=(), description="what goes wrong, in order; the first that applies does"
    )
    seed: int = Field(default=0, description="seed of the chances of faults")


class FakeDriver(Handing, InstanceDriver):
    """The fake provider."""

    Settings = FakeSettings
    settings: FakeSettings

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer each shape that fits; see the contract."""
        self._cut(await self._answer("offers"))
        if request.image and self.settings.images and request.image not in self.settings.images:
            why = f"there is no image {request.image!r}, but: {', '.join(self.settings.images)}"
            return [self._offer(request, self._largest(), possible=False, available=False, why_not=why)]
        fitting = [kind for kind in self.settings.shapes if not shortfall(request, kind.shape())]
        if not fitting:
            largest = self._largest()
            why = shortfall(request, largest.shape()) or "no machine has all of it"
            return [self._offer(request, largest, possible=False, available=False, why_not=why)]
        used = self._used(self._read())
        offers = []
        for kind in fitting:
            free = used.get(kind.name, 0) < kind.count
            why = "" if free else f"all {kind.count} are taken"
            offers.append(self._offer(request, kind, available=free, why_not=why))
        return sorted(offers, key=lambda offer: (not offer.available, offer.price))

    async def create(self, spec: Spec) -> Handle:
        """Take one machine of the offered shape; see the contract."""
        cut = await self._answer("create")
        name = spec.offer.choice.get("shape", spec.offer.shape.name)
        kind = next((kind for kind in self.settings.shapes if kind.name == name), None)
        if kind is None:
            raise Rejected(f"{self.context.provider} has no shape {name!r}", remedy="Ask for offers again.")
        folder = self._folder(spec.id)
        with self._changing() as state:
            if spec.id not in state["instances"]:
                if self._used(state).get(kind.name, 0) >= kind.count:
                    raise NoCapacity(f"all {kind.count} machines of shape {kind.name!r} are taken")
                state["instances"][spec.id] = {
                    "installation": self.context.installation,
                    "owner": spec.owner,
                    "name": spec.name,
                    "shape": kind.name,
                    "created": time.time(),
                }
        folder.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # after the state: a folder is never without its entry
        self._cut(cut)
        return Handle(data={"id": spec.id})

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Look up each; see the contract."""
        cut = await self._answer("observe")
        held = self._read()["instances"]
        found = {
            instance_id: self._observation(instance_id, held.get(instance_id)) for instance_id in handles
        }
        self._cut(cut)
        return found

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """End its processes, remove its folder, give the machine back; see the contract."""
        cut = await self._answer("destroy")
        folder = self._folder(instance_id)
        if folder.exists():
            await asyncio.to_thread(_remove, instance_id, folder)
        with self._changing() as state:
            state["instances"].pop(instance_id, None)
        self._cut(cut)

    async def holdings(self) -> Sequence[Holding]:
        """List what carries our tag; see the contract."""
        cut = await self._answer("holdings")
        held = [
            Holding(
                instance_id=instance_id,
                what="machine",
                name=f"{entry['shape']}/{instance_id}",
                created=datetime.fromtimestamp(entry["created"], UTC),
                handle=Handle(data={"id": instance_id}),
            )
            for instance_id, entry in self._read()["instances"].items()
            if entry["installation"] == self.context.installation
        ]
        self._cut(cut)
        return held

    async def check(self) -> Sequence[Finding]:
        """Say that this provider is not a real one, and which faults it is told to have."""
        subject = self.context.provider
        findings = [
            Finding(subject=subject, ok=True, message="a fake provider: its machines are folders here")
        ]
        for fault in self.settings.faults:
            often = "always" if fault.times == "always" else f"{fault.times} times"
            message = f"{fault.call} fails {often} with {fault.error}, as configured"
            findings.append(
                Finding(
                    subject=subject,
                    ok=False,
                    message=message,
                    remedy="Remove it from 'faults' of this provider.",
                )
            )
        return findings

    async def close(self) -> None:
        """Nothing is open."""

    async def images(self) -> Sequence[str]:
        """Return the configured images."""
        return self.settings.images

    async def discover(self) -> Discovery:
        """Return the configured images, shapes and location."""
        price = self.settings.price
        return Discovery(
            images=tuple(Found(id=name) for name in self.settings.images),
            shapes=tuple(
                Found(id=one.name, shape=one.shape(), price=price if one.price is None else one.price)
                for one in self.settings.shapes
            ),
            locations=(Found(id=self.settings.location),) if self.settings.location else (),
        )

    def _largest(self) -> FakeShape:
        kinds = self.settings.shapes or (FakeShape(count=0),)
        return max(kinds, key=lambda kind: (kind.gpus, kind.cpus, kind.memory))

    def _offer(self, request: Request, kind: FakeShape, **more: Any) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=self.settings.kind,
            shape=kind.shape(),
            location=self.settings.location,
            image=request.image or next(iter(self.settings.images), ""),
            price=self.settings.price if kind.price is None else kind.price,
            priced=kind.priced,
            choice={"shape": kind.name},
            **more,
        )

    def _observation(self, instance_id: str, entry: dict[str, Any] | None) -> Observation:
        folder = self._folder(instance_id)
        if entry is None or not folder.is_dir():
            return Observation(phase=Phase.GONE, detail="no such machine")
        left = entry["created"] + self.settings.boot_seconds - time.time()
        if left > 0:
            return Observation(phase=Phase.PENDING, detail=f"booting, {left:.0f} s left")
        enter = ("/usr/bin/env", f"GRIDCLOUD_INSTANCE={instance_id}")
        return Observation(phase=Phase.RUNNING, address=LocalAddress(directory=str(folder), enter=enter))

    async def _answer(self, call: Call) -> Fault | None:
        """Take the time a call takes, fail if a fault says so; return the fault that strikes after the deed."""
        await asyncio.sleep(self.settings.latency / 1000)
        fault = self._fault(call) if any(fault.call == call for fault in self.settings.faults) else None
        if fault is None or fault.error == "crash-after":
            return fault
        if fault.error == "hang":
            await asyncio.Event().wait()
        raise _error(fault, self.context.provider)

    def _cut(self, fault: Fault | None) -> None:
        if fault is not None:
            raise _error(fault, self.context.provider)

    def _fault(self, call: Call) -> Fault | None:
        with self._changing() as state:
            state["calls"] += 1
            chance = random.Random(f"{self.settings.seed}-{state['calls']}")  # noqa: S311 - faults, not secrets
            for number, fault in enumerate(self.settings.faults):
                if fault.call != call or chance.random() >= fault.probability:
                    continue
                struck = state["struck"].get(f"{number}", 0)
                if fault.times == "always" or struck < fault.times:
                    state["struck"][f"{number}"] = struck + 1
                    return fault
        return None

    def _folder(self, instance_id: str) -> Path:
        if not instance_id.replace("-", "").isalnum():
            raise Rejected(f"{instance_id!r} is not an instance id")
        return self.context.folder / "instances" / instance_id

    def _used(self, state: dict[str, Any]) -> dict[str, int]:
        used: dict[str, int] = {}
        for entry in state["instances"].values():
            used[entry["shape"]] = used.get(entry["shape"], 0) + 1
        return used

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.context.folder / "state.json").read_text())
        except FileNotFoundError:
            found = {"instances": {}, "calls": 0, "struck": {}}
        return found

    @contextmanager
    def _changing(self) -> Generator[dict[str, Any], None, None]:
        """Read the state and write it back whole, while nobody else does, in this process or another."""
        self.context.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.context.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            yield state
            new = self.context.folder / "state.json.new"
            new.write_text(json.dumps(state))
            new.replace(self.context.folder / "state.json")


def _error(fault: Fault, provider: str) -> GridcloudError:
    match fault.error:
        case "no-capacity":
            return NoCapacity(f"{provider} has no machine left (a configured fault)")
        case "quota":
            return QuotaExceeded(f"the quota at {provider} is used up (a configured fault)")
        case "throttled":
            return Throttled(f"{provider} was asked too often (a configured fault)")
        case "rejected":
            return Rejected(f"{provider} refuses (a configured fault)")
        case "crash-after":
            return Unreachable(f"{provider} was cut off before it answered (a configured fault)")
        case _:
            return Unreachable(f"{provider} does not answer (a configured fault)")


def _remove(instance_id: str, folder: Path) -> None:
    """End all that runs under the instance's name, then remove its folder."""
    mark = f"GRIDCLOUD_INSTANCE={instance_id}".encode()
    for _ in range(50):
        living = [pid for pid in _processes() if mark in _words(pid)]
        if not living:
            break
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def _words(pid: int) -> list[bytes]:
    """Return the environment of a process, and its command, for one that is only about to get the environment."""
    found: list[bytes] = []
    for name in ("cmdline", "environ"):
        try:
            found += Path(f"/proc/{pid}/{name}").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            continue
    return found
