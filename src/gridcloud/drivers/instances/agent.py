"""Machines that dial us: one provider of all that have joined, or of those with some labels.

What is asked of it is forwarded to the machine, which checks it against what its owner allows. Which machine an
instance was made on is noted in the driver's folder before the machine is asked, so that it is found again without its
handle. A machine that is not connected now is not gone: what it has is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from gridcloud.connections.model import SSHAddress
from gridcloud.errors import (
    ConnectionLost,
    GridcloudError,
    NoCapacity,
    Transient,
    Unavailable,
)
from gridcloud.instances.driver import InstanceDriver, JoinedMachine
from gridcloud.instances.matching import shortfall
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
from gridcloud.settings import ProviderSettings

__all__ = ["AgentDriver", "AgentSettings"]

T = TypeVar("T")

ASK = 6.0
"""Seconds for a machine to answer what is quickly answered."""
MAKE = 55.0
"""Seconds for a machine to make or to end something."""
WORDS = 500
"""Characters of a machine's reasons that are passed on."""
LIMIT = 64
"""Refusals told of one request."""
LONGEST = 30 * 86400
"""Seconds until it is free that a machine may tell of."""
HOLDINGS = 1000
"""Holdings of one machine that are looked at."""
HANDLE = 4096
"""Bytes of a machine's handle as JSON at most; ours adds its name."""
LEAST = 16 << 20
"""Bytes of memory that a machine may offer though less was asked for."""

_ID = re.compile(r"[a-z0-9][a-z0-9-]{2,40}")


class AgentSettings(ProviderSettings):
    """Settings of machines that dial us."""

    labels: Mapping[str, str] = Field(
        default_factory=dict,
        description="only machines with all these labels; * stands for anything",
    )


class _Seen(BaseModel):
    """What a machine says of one instance."""

    phase: Phase
    detail: str = Field(default="", max_length=2000)
    directory: str = Field(default="", max_length=4096)
    home: str = Field(default="", max_length=4096)


class AgentDriver(InstanceDriver):
    """The machines that have joined."""

    Settings = AgentSettings
    settings: AgentSettings

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Ask all connected machines at once; those with the least load come first. See the contract."""
        machines = [one for one in await self._machines() if not one.removed and self._fits(one)]
        if not machines:
            return [self._none("no machine has joined that this provider may use", possible=True)]
        answers = await asyncio.gather(*(self._ask_offers(machine, request) for machine in machines))
        offers = [offer for answer in answers for offer in answer]
        able = [offer for offer in offers if offer.possible]
        if able:
            load = {machine.name: machine.load for machine in machines}
            return sorted(able, key=lambda one: (not one.available, load.get(one.shape.name, 0)))[:LIMIT]
        largest = max(offers, key=lambda one: (one.shape.gpus if request.gpus else 0, one.shape.cpus))
        why = "; ".join(dict.fromkeys(f"{one.location}: {one.why_not}" for one in offers[:LIMIT]))
        return [largest.model_copy(update={"why_not": why})]

    async def create(self, spec: Spec) -> Handle:
        """Have the machine of the offer make it; see the contract."""
        name = str(spec.offer.choice.get("agent", ""))
        machine = next((one for one in await self._machines() if one.name == name), None)
        if machine is None or machine.removed:
            raise Unavailable(f"The machine {name} is no longer there.")
        known = self._noted().get(spec.id)
        if known is None:
            if machine.draining:
                raise NoCapacity(f"The machine {name} takes nothing new.")
            if machine.why_not:
                raise Unavailable(f"The machine {name} is not connected: {machine.why_not}.")
            self._note(spec.id, name)
        try:
            answer = await self._call(name, "create", {"spec": spec.model_dump(mode="json")}, MAKE)
        except Unavailable:  # it has made nothing, and nobody will ask to end it
            if known is None:
                self._path(spec.id).unlink(missing_ok=True)
            raise
        inner = _read(Handle, answer, name).model_dump(mode="json")
        if len(json.dumps(inner)) > HANDLE:
            raise ConnectionLost(f"The machine {name} answers with a handle of more than {HANDLE} bytes.")
        return Handle(data={"agent": name, "handle": inner})

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Ask each machine once; see the contract. What is on a machine that is away is pending."""
        machines = {one.name: one for one in await self._machines()}
        by_machine: defaultdict[str, dict[str, Handle]] = defaultdict(dict)
        for instance_id, handle in handles.items():
            by_machine[str(handle.data.get("agent"))][instance_id] = handle
        seen = await asyncio.gather(
            *(self._observe_on(machines.get(name), name, held) for name, held in by_machine.items())
        )
        return {instance_id: one for part in seen for instance_id, one in part.items()}

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Have its machine end it; see the contract. Raises Unreachable while the machine is away."""
        if instance_id == SHARED or not _ID.fullmatch(instance_id):
            return  # machines hold nothing of that name for us
        name = self._noted().get(instance_id) or (str(handle.data.get("agent")) if handle else "")
        if not name:
            return  # no machine was ever asked
        machine = next((one for one in await self._machines() if one.name == name), None)
        if machine is not None and not machine.removed:
            inner = handle.data.get("handle") if handle else None
            await self._call(name, "destroy", {"id": instance_id, "handle": inner}, MAKE)
        self._path(instance_id).unlink(missing_ok=True)

    async def holdings(self) -> Sequence[Holding]:
        """Return what the machines have, and what those that are away had; see the contract."""
        machines = [one for one in await self._machines() if not one.removed]
        answers = await asyncio.gather(
            *(self._holdings_of(one) for one in machines if not one.why_not), return_exceptions=True
        )
        found: dict[str, Holding] = {}
        away = {one.name for one in machines if one.why_not}
        for machine, answer in zip([one for one in machines if not one.why_not], answers, strict=True):
            if isinstance(answer, GridcloudError):  # one that refuses hides its own only
                away.add(machine.name)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found |= {one.instance_id: one for one in answer}
        for instance_id, name in self._noted().items():
            if name in away:
                found.setdefault(
                    instance_id,
                    Holding(instance_id=instance_id, what="instance", name=f"on {name}, which is away"),
                )
        return list(found.values())

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Have the machine end it by itself at ``at``. Raises Transient, NotFound."""
        name = str(handle.data.get("agent"))
        await self._call(name, "arm", {"id": instance_id, "at": at.isoformat()}, ASK)

    async def check(self) -> Sequence[Finding]:
        """Tell of each machine whether it is connected, and what it finds of itself."""
        machines = [one for one in await self._machines() if not one.removed and self._fits(one)]
        if not machines:
            remedy = "Invite one: gridcloud agent invite NAME"
            return [
                Finding(
                    subject=self.context.provider, ok=False, message="no machine has joined", remedy=remedy
                )
            ]
        found = await asyncio.gather(*(self._check_on(machine) for machine in machines))
        return [finding for findings in found for finding in findings]

    async def close(self) -> None:
        """Nothing is open."""

    # One machine ----------------------------------------------------------------------------------------------

    async def _ask_offers(self, machine: JoinedMachine, request: Request) -> list[Offer]:
        if machine.draining:
            return [self._none("takes nothing new", machine.name, possible=True)]
        if machine.why_not:
            return [self._none(f"is not connected: {machine.why_not}", machine.name, possible=True)]
        asked = request.model_copy(update={"on": "", "location": "", "project": ""})
        try:
            answer = await self._call(machine.name, "offers", {"request": asked.model_dump(mode="json")}, ASK)
            offers = _read(list[Offer], answer, machine.name)
        except GridcloudError as error:
            waits = isinstance(error, Transient)
            return [self._none(str(error), machine.name, possible=waits)]
        if any(_is_senseless(offer, asked) for offer in offers):
            return [self._none("offers what makes no sense", machine.name, possible=False)]
        return [
            offer.model_copy(
                update={
                    "provider": self.context.provider,
                    "location": " ".join(filter(None, (self.settings.location, machine.name))),
                    "choice": {"agent": machine.name},
                    "why_not": offer.why_not[:WORDS],
                    "image": offer.image[:WORDS],
                    "wait": min(offer.wait, LONGEST),
                    "refusal": "",
                    "spot": False,
                    "priced": True,
                    "steps": (),
                    "price": self.settings.price,
                    "shape": _bounded(offer, asked).model_copy(update={"name": machine.name}),
                }
            )
            for offer in offers[:LIMIT]
        ]

    async def _observe_on(
        self, machine: JoinedMachine | None, name: str, held: Mapping[str, Handle]
    ) -> dict[str, Observation]:
        if machine is None or machine.removed:
            gone = Observation(phase=Phase.GONE, detail=f"the machine {name} was removed")
            return dict.fromkeys(held, gone)
        inner = {one: handle.data.get("handle") for one, handle in held.items()}
        try:
            answer = await self._call(name, "observe", {"handles": inner}, ASK)
            seen = _read(dict[str, _Seen], answer, name)
        except (
            GridcloudError
        ) as error:  # what one machine answers says nothing of the others, nor of our entry
            return dict.fromkeys(held, Observation(phase=Phase.PENDING, detail=str(error)))
        return {one: self._observation(machine, one, seen.get(one)) for one in held}

    @staticmethod
    def _observation(machine: JoinedMachine, instance_id: str, seen: _Seen | None) -> Observation:
        if seen is None:
            return Observation(phase=Phase.GONE, detail=f"{machine.name} knows nothing of it")
        if seen.phase is not Phase.RUNNING:
            return Observation(phase=seen.phase, detail=seen.detail)
        address = SSHAddress(
            host=machine.name,
            socket=machine.socket,
            user=instance_id,
            principal=f"gridcloud-{instance_id}",
            host_keys=(machine.host_key,),
            directory=seen.directory,
            home=seen.home,
        )
        return Observation(phase=Phase.RUNNING, address=address, detail=seen.detail)

    async def _holdings_of(self, machine: JoinedMachine) -> list[Holding]:
        answer = await self._call(machine.name, "holdings", {}, ASK)
        noted = self._noted()
        found = [
            one
            for one in _read(list[Holding], answer, machine.name)[:HOLDINGS]
            # No name of a file elsewhere, nothing that another machine was asked to make.
            if _ID.fullmatch(one.instance_id)
            and one.instance_id != SHARED
            and noted.get(one.instance_id, machine.name) == machine.name
        ]
        return [
            holding.model_copy(
                update={
                    "name": f"{holding.name[:WORDS]} on {machine.name}",
                    "created": holding.created if holding.created and holding.created.tzinfo else None,
                    "handle": Handle(
                        data={
                            "agent": machine.name,
                            "handle": holding.handle.model_dump(mode="json") if holding.handle else None,
                        }
                    ),
                }
            )
            for holding in found
        ]

    async def _check_on(self, machine: JoinedMachine) -> list[Finding]:
        if machine.why_not:
            remedy = "Is it switched on, and does 'gridcloud agent join' run there?"
            message = f"is not connected: {machine.why_not}"
            return [Finding(subject=machine.name, ok=False, message=message, remedy=remedy)]
        try:
            found = _read(list[Finding], await self._call(machine.name, "check", {}, 20), machine.name)
        except GridcloudError as error:
            return [
                Finding(
                    subject=machine.name,
                    ok=False,
                    message=error.message,
                    remedy=error.remedy or "Look there.",
                )
            ]
        return [
            one.model_copy(
                update={
                    "subject": machine.name,
                    "message": one.message[:WORDS],
                    "remedy": one.remedy[:WORDS],
                }
            )
            for one in found[:LIMIT]
        ]

    async def _call(self, name: str, call: str, arguments: dict[str, Any], timeout: float) -> Any:
        return await self.context.agents.call(name, call, arguments, timeout)

    async def _machines(self) -> Sequence[JoinedMachine]:
        # What another provider made of a machine is that provider's.
        return [one for one in await self.context.agents.machines() if not one.instance_of]

    def _fits(self, machine: JoinedMachine) -> bool:
        return all(
            fnmatch.fnmatchcase(machine.labels.get(key, ""), wanted)
            for key, wanted in self.settings.labels.items()
        )

    def _none(self, why: str, name: str = "", *, possible: bool) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=Kind.BARE_METAL,
            shape=Shape(name=name, cpus=0, memory=0),
            location=" ".join(filter(None, (self.settings.location, name))),
            available=False,
            possible=possible,
            why_not=f"{name} {why}".strip(),
            choice={"agent": name},
        )

    # Notes ------------------------------------------------------------------------------------------------------

    def _path(self, instance_id: str) -> Path:
        return self.context.folder / "made" / instance_id

    def _note(self, instance_id: str, name: str) -> None:
        path = self._path(instance_id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f".{instance_id}")
        new.write_text(name)
        new.replace(path)

    def _noted(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.context.folder.glob("made/[!.]*"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.read_text()
        return found


def _is_senseless(offer: Offer, request: Request) -> bool:
    shape = offer.shape
    numbers = (shape.cpus, shape.memory, shape.disk, shape.gpus, shape.gpu_memory)
    return min(numbers) < 0 or (offer.possible and bool(shortfall(request, shape)))


def _bounded(offer: Offer, request: Request) -> Shape:
    """Return the shape of an offer: of what can be had, as much as was asked for, however much a machine claims."""
    if not offer.possible:
        return offer.shape
    most = {"cpus": request.cpus, "memory": max(request.memory, LEAST), "gpus": request.gpus}
    return offer.shape.model_copy(
        update={name: min(getattr(offer.shape, name), value) for name, value in most.items()}
    )


def _read(kind: type[T], answer: Any, name: str) -> T:
    """Return what a machine answered. Raises ConnectionLost for what makes no sense: another may."""
    try:
        return TypeAdapter(kind).validate_python(answer)
    except ValidationError as error:
        raise ConnectionLost(
            f"{name} answers what makes no sense: {error.error_count()} mistakes.",
            remedy="Run the same version of gridcloud there.",
        ) from error
