"""A pool of existing machines, reached by SSH: instances are shares of them, packed without overlap.

Who has what is written on the host itself, under a lock there, so that several brokers may use one host. With root
(or sudo without a password) every owner has an account of its own, into which only certificates of our authority
log in; without, a host serves one owner at a time. Nothing needs to be installed on a host but an SSH server.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.ssh_check import check_host
from gridcloud.drivers.instances.ssh_host import (
    GPU,
    SCRIPT,
    Facts,
    Host,
    Reservation,
    Survey,
    ask_all,
    parse_reservation,
)
from gridcloud.drivers.instances.ssh_notes import Notes
from gridcloud.drivers.instances.ssh_settings import SSHHost, SSHSettings
from gridcloud.errors import GridcloudError, InvalidSettings, Rejected, Transient, Unreachable
from gridcloud.instances.driver import Context, Handing, InstanceDriver
from gridcloud.instances.limits import Limits, render_enter, render_leave, render_prepare
from gridcloud.instances.matching import shortfall
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
    format_size,
)
from gridcloud.settings import ProviderSettings

__all__ = ["SSHDriver"]

Mode = Literal["account", "login"]
OFFER_SECONDS = 9.0
CHANGE_SECONDS = 25.0
"""Two such steps make an instance; waiting for the lock on the host is part of them."""


class SSHDriver(Handing, InstanceDriver):
    """The provider."""

    Settings = SSHSettings
    settings: SSHSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._hosts: dict[str, Host] = {}
        self._notes = Notes(context.folder / "asked")

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer each host that fits; see the contract. A host that does not answer is an offer with its reason."""
        seen = await ask_all(self._configured(), _look, OFFER_SECONDS)
        silent = {label: answer for label, answer in seen.items() if isinstance(answer, GridcloudError)}
        if len(silent) == len(seen):
            raise next(iter(silent.values()))
        fitting, largest = [], []
        for entry in self.settings.hosts:
            answer = seen[entry.label]
            if isinstance(answer, GridcloudError):
                fitting.append(self._offer(entry, _asked(request, entry.label, ""), why_not=str(answer)))
                continue
            facts, survey = answer
            whole = self._whole(entry, facts, survey, request)
            why = _never(request) or shortfall(request, whole)
            if why:
                largest.append(self._offer(entry, whole, why_not=why, possible=False))
                continue
            fitting.append(self._share(entry, facts, survey, request))
        if len(largest) + len(silent) == len(seen):
            # None that answers ever can: one offer tells what the largest has.
            best = max(largest, key=lambda offer: (offer.shape.gpus, offer.shape.cpus, offer.shape.memory))
            return [best, *fitting]
        return sorted(fitting, key=lambda offer: (not offer.available, offer.price))

    async def create(self, spec: Spec) -> Handle:
        """Reserve a share of the offered host and make the owner's account there; see the contract."""
        label = str(spec.offer.choice.get("host", ""))
        entry = next((one for one in self.settings.hosts if one.label == label), None)
        if entry is None:
            raise Rejected(f"{self.context.provider} has no host {label!r}.", remedy="Ask for offers again.")
        self._notes.add(spec.id, {})
        host = self._configured()[label]
        facts = await host.facts()
        mode = self._mode(entry, facts)
        owner = self._account(spec.owner, guest=spec.guest)
        self._notes.add(spec.id, {label: host.address.model_dump(mode="json")})
        words = self._reserve_words(spec, entry, facts, owner, mode)
        return await self._install(host, await host.run("reserve", *words, seconds=CHANGE_SECONDS))

    async def hand_over(self, instance_id: str, handle: Handle, owner: str) -> Handle:
        """Give it and its files to the owner's account, which is made where there is none; see the contract."""
        host = self._holder(handle.data["host"], handle.data["address"])
        account = self._account(owner, guest=False)
        keys = _keys_of(self.context.user_authority)
        words = (self._tag, instance_id, account, keys)
        return await self._install(host, await host.run("hand", *words, seconds=CHANGE_SECONDS))

    async def _install(self, host: Host, answer: str) -> Handle:
        """Make what was reserved fit for the account that it was reserved for; return its handle."""
        lines = dict(line.partition(" ")[::2] for line in answer.splitlines())
        reservation, place = parse_reservation(lines["reserved"]), lines["place"]
        limits = Limits(
            instance_id=reservation.instance_id,
            directory=f"{place}/files",
            cpus=reservation.cpus,
            memory=reservation.memory,
            processes=self.settings.processes,
            gpus=reservation.gpus,
            user=reservation.owner if reservation.mode == "account" else "",
        )
        await host.run(
            "install",
            *(self._tag, reservation.instance_id, reservation.owner, reservation.mode),
            *(_keys_of(self.context.user_authority), render_prepare(limits), render_enter(limits)),
            render_leave(limits),
            seconds=CHANGE_SECONDS,
        )
        return self._handle(host, reservation, place)

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Look at each host once; see the contract. What lies on a host that does not answer is PENDING, with the
        reason: nothing is known of it. Raises Transient when none of them answers."""
        hosts = {label: self._holder(label, address) for label, address in _by_host(handles).items()}
        seen = await ask_all(hosts, Host.survey, OFFER_SECONDS)
        errors = [answer for answer in seen.values() if isinstance(answer, GridcloudError)]
        if errors and len(errors) == len(seen):
            raise errors[0] if isinstance(errors[0], Transient) else Unreachable(str(errors[0]))
        found = {}
        for instance_id, handle in handles.items():
            answer = seen[handle.data["host"]]
            if isinstance(answer, GridcloudError):
                found[instance_id] = Observation(phase=Phase.PENDING, detail=str(answer))
            else:
                host = hosts[handle.data["host"]]
                found[instance_id] = self._observation(instance_id, handle, host, answer)
        return found

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """End its processes and remove its share, and the owner's account with the last of them; see the contract."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{2,40}", instance_id):
            raise Rejected(f"{instance_id!r} is not an instance id.")
        noted = self._notes.get(instance_id)
        if handle is not None:
            hosts = {handle.data["host"]: self._holder(handle.data["host"], handle.data["address"])}
        elif noted is not None:
            hosts = {label: self._holder(label, address) for label, address in noted.items()}
        else:
            hosts = self._configured()

        async def remove(host: Host) -> str:
            return await host.run("remove", self._tag, instance_id, self._keep, seconds=2 * CHANGE_SECONDS)

        for label, answer in (await ask_all(hosts, remove, 2 * CHANGE_SECONDS)).items():
            # Where no host key is pinned nothing was ever made.
            if isinstance(answer, GridcloudError) and not isinstance(answer, InvalidSettings):
                raise Transient(
                    f"It is not certain that {instance_id} is gone from {label}: {answer}"
                ) from answer
        self._notes.drop(instance_id)

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Leave a process on the host that removes the instance at ``at``, for as long as the machine runs."""
        seconds = max(0, math.ceil((at - datetime.now(UTC)).total_seconds())) + 1
        host = self._holder(handle.data["host"], handle.data["address"])
        await host.run("arm", self._tag, instance_id, self._keep, str(seconds), SCRIPT)

    async def holdings(self) -> Sequence[Holding]:
        """List all instances of this installation on all hosts; see the contract. Raises Transient when a host does
        not answer."""
        found: list[Holding] = []
        hosts = self._configured()
        for label, answer in (await ask_all(hosts, Host.survey, OFFER_SECONDS)).items():
            if isinstance(answer, InvalidSettings):
                continue
            if isinstance(answer, GridcloudError):
                raise Transient(f"What {label} holds is not known: {answer}") from answer
            ours = [one for one in answer.reservations if one.installation == self._tag]
            found.extend(self._holding(hosts[label], one, answer) for one in ours)
        return found

    async def check(self) -> Sequence[Finding]:
        """Look at each host; see the contract."""
        try:
            hosts = self._configured()
        except GridcloudError as error:
            remedy = error.remedy or "See docs/guide/ssh-hosts.md."
            return [Finding(subject=self.context.provider, ok=False, message=error.message, remedy=remedy)]
        checks = [check_host(host, self.settings.accounts) for host in hosts.values()]
        return [finding for findings in await asyncio.gather(*checks) for finding in findings]

    async def close(self) -> None:
        """Close the connections."""
        hosts, self._hosts = self._hosts, {}
        await asyncio.gather(*(host.close() for host in hosts.values()))

    # Hosts ---------------------------------------------------------------------------------------------------

    def _configured(self) -> dict[str, Host]:
        """Return the hosts by label. Raises InvalidSettings when the known_hosts file cannot be read."""
        return {entry.label: self._host(entry.label, self._address(entry)) for entry in self.settings.hosts}

    def _address(self, entry: SSHHost) -> SSHAddress:
        return entry.address(self.settings.key, self.settings.known_hosts)

    def _host(self, label: str, address: SSHAddress) -> Host:
        host = self._hosts.get(label)
        if host is None or host.address != address:
            accounts = self.settings.accounts != "login" and bool(self.context.user_authority)
            host = self._hosts[label] = Host(label, address, self.settings.directory, self.context, accounts)
        return host

    def _holder(self, label: str, address: dict[str, Any]) -> Host:
        """Return the host of something made earlier, which may have left the configuration since."""
        entry = next((one for one in self.settings.hosts if one.label == label), None)
        return self._host(label, self._address(entry) if entry else SSHAddress.model_validate(address))

    # Meaning -------------------------------------------------------------------------------------------------

    @property
    def _tag(self) -> str:
        tag = self.context.installation
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", tag):
            return tag
        return hashlib.sha256(tag.encode()).hexdigest()[:32]

    @property
    def _keep(self) -> str:
        return "yes" if self.settings.keep_homes else "no"

    def _account(self, owner: str, *, guest: bool) -> str:
        """Return the account's name for an owner, whose own name is never used on a host. The host keeps no home of a
        guest's, whose account it knows by its name."""
        words = f"{self.context.installation}:{owner}".encode("utf-8", "surrogatepass")
        return ("gc-guest-" if guest else "gc-") + hashlib.sha256(words).hexdigest()[:12]

    def _mode(self, entry: SSHHost, facts: Facts) -> Mode:
        able = facts.may_make_accounts and bool(self.context.user_authority)  # as Host.run has it
        if self.settings.accounts == "login" or (self.settings.accounts == "auto" and not able):
            return "login"
        if not able:
            raise InvalidSettings(
                f"{entry.label}: accounts for owners need root, or sudo without a password, and useradd.",
                remedy=f"Give {facts.user} that right, log in as root, or set 'accounts: login'.",
            )
        return "account"

    def _gpus(self, entry: SSHHost, facts: Facts) -> Sequence[GPU]:
        if entry.gpus is None:
            return facts.gpus
        named = [*facts.gpus, *(GPU(str(index), 0, "") for index in range(len(facts.gpus), entry.gpus))]
        return named[: entry.gpus]

    def _whole(self, entry: SSHHost, facts: Facts, survey: Survey | None, request: Request) -> Shape:
        """Return what a host has to give while nothing is taken; of its GPUs those asked for, if it has any."""
        gpus = self._gpus(entry, facts)
        gpus = (request.gpus and _fitting(request, gpus)) or gpus
        return Shape(
            name=entry.label,
            cpus=max(0.0, (entry.cpus or facts.cpus) - self.settings.reserve.cpus),
            memory=max(0, (entry.memory or facts.memory) - self.settings.reserve.memory),
            disk=survey.disk if survey else 0,
            gpus=len(gpus),
            gpu_model=", ".join(sorted({gpu.model for gpu in gpus if gpu.model})),
            gpu_memory=max((gpu.memory for gpu in gpus), default=0),
        )

    def _share(self, entry: SSHHost, facts: Facts, survey: Survey, request: Request) -> Offer:
        """Return the offer of a host on which the request fits, free or not."""
        whole, live = self._whole(entry, facts, survey, request), survey.live()
        cpus = max(0.0, whole.cpus - sum(one.cpus for one in live))
        memory = max(0, whole.memory - sum(one.memory for one in live))
        taken = {gpu for one in live for gpu in one.gpus}
        gpus = [gpu for gpu in _fitting(request, self._gpus(entry, facts)) if gpu.id not in taken]
        why = ""
        if cpus < request.cpus - 1e-9:
            why = f"{cpus:.3g} of {whole.cpus:g} CPUs are free"
        elif memory < request.memory:
            why = f"{format_size(memory)} of {format_size(whole.memory)} of memory are free"
        elif len(gpus) < request.gpus:
            why = f"{len(gpus)} of {whole.gpus} GPUs are free"
        elif survey.disk_free < request.disk:
            why = f"{format_size(survey.disk_free)} of disk are free"
        try:
            self._mode(entry, facts)
        except InvalidSettings as error:
            why = str(error)
        model = next((gpu.model for gpu in gpus), whole.gpu_model) if request.gpus else ""
        offer = self._offer(entry, _asked(request, entry.label, model), why_not=why)
        share = max(
            request.cpus / whole.cpus,
            request.memory / max(whole.memory, 1),
            request.gpus / whole.gpus if whole.gpus else 0.0,
        )
        price = self.settings.price if entry.price is None else entry.price
        return offer.model_copy(update={"price": (price * Decimal(share)).quantize(Decimal("0.0001"))})

    def _offer(self, entry: SSHHost, shape: Shape, why_not: str = "", possible: bool = True) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=Kind.BARE_METAL,
            shape=shape,
            location=entry.location or self.settings.location,
            available=not why_not,
            why_not=f"{entry.label}: {why_not}"
            if why_not and not why_not.startswith(entry.label)
            else why_not,
            possible=possible,
            choice={"host": entry.label},
        )

    def _reserve_words(
        self, spec: Spec, entry: SSHHost, facts: Facts, owner: str, mode: Mode
    ) -> tuple[str, ...]:
        request = spec.request
        whole = self._whole(entry, facts, None, request)
        asked = (math.ceil(request.cpus * 1000), request.memory, request.gpus, request.disk)
        there = (math.floor(whole.cpus * 1000), whole.memory)
        gpus = ",".join(gpu.id for gpu in _fitting(request, self._gpus(entry, facts)))
        return (self._tag, spec.id, owner, mode, *map(str, asked), *map(str, there), gpus)

    def _handle(self, host: Host, reservation: Reservation, place: str) -> Handle:
        return Handle(
            data={
                "host": host.name,
                "address": host.address.model_dump(mode="json"),
                "place": place,
                "account": reservation.owner if reservation.mode == "account" else "",
                "boot": reservation.boot,
            }
        )

    def _holding(self, host: Host, one: Reservation, survey: Survey) -> Holding:
        place = f"{survey.directory}/{self._tag}/instances/{one.instance_id}"
        return Holding(
            instance_id=one.instance_id,
            what="share of a host",
            name=f"{host.name}:{place}",
            created=datetime.fromtimestamp(one.created, UTC) if one.created else None,
            handle=self._handle(host, one, place),
        )

    def _observation(self, instance_id: str, handle: Handle, host: Host, survey: Survey) -> Observation:
        wanted = (self._tag, instance_id)
        one = next(
            (one for one in survey.reservations if (one.installation, one.instance_id) == wanted), None
        )
        if one is None:
            return Observation(phase=Phase.GONE, detail=f"{host.name} holds it no longer")
        if one.boot != survey.boot or one.boot != handle.data.get("boot", one.boot):
            return Observation(phase=Phase.GONE, detail=f"{host.name} was started anew since it was made")
        if not one.ready:
            return Observation(phase=Phase.PENDING, detail=f"it is being made on {host.name}")
        place, account = handle.data["place"], handle.data["account"]
        login = {"user": account, "principal": account, "key": ""} if account else {}
        address = host.address.model_copy(
            update={**login, "directory": f"{place}/files", "enter": (f"{place}/enter",)}
        )
        return Observation(phase=Phase.RUNNING, address=address)


async def _look(host: Host) -> tuple[Facts, Survey]:
    return await host.facts(), await host.survey()


def _never(request: Request) -> str:
    """Return why a request can never be served by any machine that exists already; empty when it can."""
    if request.kind not in (None, Kind.BARE_METAL):
        return f"is bare metal, a {request.kind.replace('_', ' ')} was asked"
    if request.image:
        return "machines that exist already have no images to choose from"
    return ""


def _asked(request: Request, name: str, gpu_model: str) -> Shape:
    """Return the shape that a request takes of a host."""
    return Shape(
        name=name,
        cpus=request.cpus,
        memory=request.memory,
        disk=request.disk,
        gpus=request.gpus,
        gpu_model=gpu_model or request.gpu_model,
        gpu_memory=request.gpu_memory,
    )


def _fitting(request: Request, gpus: Sequence[GPU]) -> list[GPU]:
    """Return the GPUs of the model and memory that are asked for; one whose memory is not known passes."""
    return [
        gpu
        for gpu in gpus
        if request.gpu_model.lower() in gpu.model.lower()
        and (not gpu.memory or gpu.memory >= request.gpu_memory)
    ]


def _by_host(handles: Mapping[str, Handle]) -> dict[str, dict[str, Any]]:
    return {handle.data["host"]: handle.data["address"] for handle in handles.values()}


def _keys_of(lines: str) -> str:
    """Return the type and data of public key lines, without their comments."""
    return "\n".join(" ".join(line.split()[:2]) for line in lines.splitlines())
