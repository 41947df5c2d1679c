"""Processes on this computer, each instance within its share of it.

An instance is a private folder, a reservation of processors, memory and GPUs, and control groups where they can be
made (see `gridcloud.instances.limits` for what holds on which machine). Reservations are files in the driver's
folder, changed under a lock; nothing is overcommitted, whoever asks and however many brokers run.

Whose account commands run as:

- gridcloud does not run as root: its own account, and only for the owner of that name (or mapped to it), for whoever
  shares an account reads the other's files. ``share_account`` lets all owners share it. People who must be kept
  apart need root, or the ``container`` driver.
- gridcloud runs as root: the account of the owner's name (``accounts`` may map it), which must be an ordinary one
  (uid 1000 or above). Root's own account serves only the owner who is root, or one mapped to it in so many words;
  all other owners are refused, unless ``allow_root`` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import BeforeValidator, Field

from gridcloud.connections.model import LocalAddress
from gridcloud.drivers.instances.local_machine import (
    GPU,
    boot_id,
    closed_folder,
    discover_gpus,
    measure_computer,
    run_script,
)
from gridcloud.errors import Forbidden, NoCapacity, NotFound, Rejected, Transient
from gridcloud.instances.driver import Handing, InstanceDriver
from gridcloud.instances.limits import Limits, render_enter, render_leave, render_prepare
from gridcloud.instances.matching import count_cpus, shortfall
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
    parse_size,
)
from gridcloud.settings import ProviderSettings

__all__ = ["LocalDriver", "LocalSettings"]

Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]

_ORDINARY_UID = 1000
_GPU_SECONDS = 60
"""How long what the computer said of its GPUs is believed."""


class LocalSettings(ProviderSettings):
    """Settings of this computer."""

    cpus: float | None = Field(
        default=None, gt=0, description="CPU cores to give in all; all there are when not given"
    )
    memory: Size | None = Field(
        default=None, description="memory to give in all, e.g. 24GiB; all when not given"
    )
    gpus: int | None = Field(default=None, ge=0, description="GPUs to give in all; all when not given")
    processes: int = Field(default=4096, gt=0, description="processes and threads of one instance, at most")
    directory: str = Field(
        default="",
        pattern=r"^(/.*)?$",
        description="folder for the instances' own folders; by default the driver's private folder, and "
        "/var/lib/gridcloud for those of other accounts",
    )
    accounts: Mapping[str, str] = Field(
        default_factory=dict,
        description="owner to account of this computer, where the names differ",
    )
    allow_root: bool = Field(
        default=False,
        description="let owners without an account here run as root, when gridcloud runs as root",
    )
    share_account: bool = Field(
        default=False,
        description="let all owners share the account gridcloud runs as: each may then read the others' files and "
        "steer gridcloud itself, so only among people who trust each other",
    )

    def exposure(self) -> str:
        """Return what those may get at who have no account of their own here."""
        if self.allow_root:
            return "people without an account on this computer run as root there (allow_root)"
        return "all people run as gridcloud itself (share_account)" if self.share_account else ""


@dataclass(frozen=True, slots=True)
class _Reservation:
    """What one instance has taken; stored as ``reservations/<id>.json``."""

    id: str
    installation: str
    owner: str
    name: str
    account: str
    """Account that commands run as; empty: gridcloud's own."""
    folder: str
    cpus: float
    memory: int
    gpus: tuple[str, ...]
    boot: str
    created: float

    @property
    def work(self) -> str:
        """The instance's own folder, in one that its account cannot change."""
        return f"{self.folder}/work"


class LocalDriver(Handing, InstanceDriver):
    """This computer."""

    Settings = LocalSettings
    settings: LocalSettings

    def __init__(self, settings: ProviderSettings, context: Any) -> None:
        super().__init__(settings, context)
        self._known_gpus: tuple[float, tuple[GPU, ...]] = (0, ())

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer a share as asked; see the contract."""
        gpus = await self._gpus()
        whole = self._whole(gpus)
        fitting = _fitting(request, gpus)
        why = "this computer has no images to choose from" if request.image else shortfall(request, whole)
        if not why and len(fitting) < request.gpus:
            why = f"only {len(fitting)} of its GPUs are as asked"
        if why:
            return [self._offer(request, whole, possible=False, available=False, why_not=why)]
        shape = Shape(
            cpus=request.cpus,
            memory=request.memory,
            disk=request.disk,
            gpus=request.gpus,
            gpu_model=fitting[0].model if request.gpus else "",
            gpu_memory=min(gpu.memory for gpu in fitting) if request.gpus else 0,
        )
        why = self._taken(request, whole, fitting, self._reservations())
        if not why and request.disk > psutil.disk_usage(str(self._existing(self._base("")))).free:
            why = "the disk is too full"
        return [
            self._offer(request, shape, available=not why, why_not=why, price=self._price(request, whole))
        ]

    async def create(self, spec: Spec) -> Handle:
        """Reserve the share, make the folder and the groups; see the contract. Raises Forbidden for an owner
        who has no account here."""
        account = self._account(spec.owner)
        gpus = await self._gpus()
        with self._locked():
            reservation = self._reservations().get(spec.id)
            if reservation is None:
                reservation = self._reserve(spec, account, gpus)
                self._store(reservation)
            _make_folders(reservation, self._limits(reservation))
        if os.geteuid() == 0:
            await run_script(render_prepare(self._limits(reservation)))
        return Handle(data={"id": spec.id})

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Say which have their reservation and folder; see the contract. A restart of the computer ends all."""
        held = self._reservations(ended=True)
        return {instance_id: _observation(held.get(instance_id)) for instance_id in handles}

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Kill its processes, remove its folder, give back its share; see the contract."""
        reservation = self._reservations(ended=True).get(instance_id)
        if reservation is None:
            return
        folder = Path(reservation.folder)
        graves = folder.parent / ".gone" / instance_id
        graves.mkdir(mode=0o711, parents=True, exist_ok=True)
        # Once its folder has moved away nothing enters any more, so that the kill is complete.
        with contextlib.suppress(FileNotFoundError):
            folder.rename(graves / secrets.token_hex(8))
        code, words = await run_script(render_leave(self._limits(reservation)))
        if code:
            raise Transient(f"{instance_id} could not be ended: {words}", remedy="It will be tried again.")
        await self._bury(graves, reservation.account)
        with self._locked():
            self._path(instance_id).unlink(missing_ok=True)

    async def hand_over(self, instance_id: str, handle: Handle, owner: str) -> Handle:
        """Make it the owner's, who has the same account here; see the contract. Raises Rejected for another's."""
        with self._locked():
            reservation = self._reservations().get(instance_id)
            if reservation is None:
                raise NotFound(f"{instance_id} is gone.")
            if self._account(owner) != reservation.account:
                raise Rejected(
                    f"{owner} has an account of their own on this computer, and what was made ahead is not of it.",
                    remedy="Sessions on this computer start at once: leave its courses without seats.",
                )
            self._store(replace(reservation, owner=owner))
        return handle

    async def holdings(self) -> Sequence[Holding]:
        """List the reservations; see the contract."""
        return [
            Holding(
                instance_id=reservation.id,
                what="directory",
                name=reservation.folder,
                created=datetime.fromtimestamp(reservation.created, UTC),
                handle=Handle(data={"id": reservation.id}),
            )
            for reservation in self._reservations(ended=True).values()
            if reservation.installation == self.context.installation
        ]

    async def check(self) -> Sequence[Finding]:
        """Tell what there is, how well limits hold, and whose account commands run as."""
        subject, whole = self.context.provider, self._whole(await self._gpus())
        words = f"{count_cpus(whole.cpus)}, {format_size(whole.memory)}, {whole.gpus} GPUs to give"
        findings = [Finding(subject=subject, ok=True, message=words)]
        root = os.geteuid() == 0
        groups = Path("/sys/fs/cgroup")
        if root and ((groups / "cgroup.controllers").exists() or os.access(groups / "memory", os.W_OK)):
            findings.append(Finding(subject=subject, ok=True, message="limits are held by control groups"))
        else:
            message = "limits are held per process only: control groups cannot be made by this account"
            remedy = "Run gridcloud as root, or use the container driver, if people need to be held to their share."
            findings.append(Finding(subject=subject, ok=True, message=message, remedy=remedy))
        if root:
            message = "commands run as the owner's account of this computer"
            findings.append(Finding(subject=subject, ok=True, message=message))
        if root and (folder := closed_folder()):
            message = f"notebooks here are for root only: others may not enter {folder}, where gridcloud's Python lies"
            remedy = (
                f"Install gridcloud and its Python where all may read, as below /opt, or: chmod o+x {folder}"
            )
            findings.append(Finding(subject=subject, ok=True, message=message, remedy=remedy))
        if root and self.settings.allow_root:
            message = "owners without an account here run as root (allow_root)"
            remedy = "Give them accounts, or map them by 'accounts', and remove allow_root."
            findings.append(Finding(subject=subject, ok=False, message=message, remedy=remedy))
        for owner, account in self.settings.accounts.items():
            try:
                self._account(owner)
            except Rejected as error:
                message = f"{owner} is mapped to {account}: {error.message}"
                findings.append(Finding(subject=subject, ok=False, message=message, remedy=error.remedy))
        base = self._existing(self._base(""))
        if not os.access(base, os.W_OK | os.X_OK):
            message, remedy = (
                f"{base} cannot be written to",
                "Set 'directory' of this provider to a folder that can.",
            )
            findings.append(Finding(subject=subject, ok=False, message=message, remedy=remedy))
        return findings

    async def close(self) -> None:
        """Nothing is open."""

    def _account(self, owner: str) -> str:
        """Return the account for an owner, empty for gridcloud's own; raises Forbidden when there is none."""
        name = self.settings.accounts.get(owner, owner)
        if os.geteuid() != 0:
            own = pwd.getpwuid(os.geteuid()).pw_name
            if name == own or self.settings.share_account:
                return ""
            raise Forbidden(
                f"gridcloud runs as {own} here, and {owner!r} would share its files",
                remedy="Run gridcloud as root so that each owner has an account, use the container driver, or set "
                "'share_account' of this provider.",
            )
        try:
            entry = pwd.getpwnam(name)
        except (KeyError, ValueError):
            entry = None
        if entry is not None and entry.pw_name == name:
            if entry.pw_uid == 0:
                return ""
            if entry.pw_uid >= _ORDINARY_UID and entry.pw_name != "nobody":
                return name
            if owner in self.settings.accounts or not self.settings.allow_root:
                raise Forbidden(
                    f"{name!r} is a system account of this computer: nothing is run as it",
                    remedy="Map the owner to an ordinary account in 'accounts' of this provider.",
                )
        if self.settings.allow_root and owner not in self.settings.accounts:
            return ""
        raise Forbidden(
            f"{name!r} has no account on this computer, and gridcloud runs as root here",
            remedy="Create the account, map the owner to one in 'accounts' of this provider, or run gridcloud "
            "without root"
            + ("; as root, 'share_account' does not count." if self.settings.share_account else "."),
        )

    def _base(self, account: str) -> Path:
        if self.settings.directory:
            return Path(self.settings.directory)
        if account:
            return Path("/var/lib/gridcloud") / self.context.installation / self.context.provider
        return self.context.folder / "instances"

    def _existing(self, path: Path) -> Path:
        return next((above for above in (path, *path.parents) if above.exists()), Path("/"))

    def _limits(self, reservation: _Reservation) -> Limits:
        return Limits(
            instance_id=reservation.id,
            directory=reservation.work,
            cpus=reservation.cpus,
            memory=reservation.memory or self._whole(()).memory,
            processes=self.settings.processes,
            gpus=reservation.gpus,
            user=reservation.account,
        )

    def _offer(self, request: Request, shape: Shape, **more: Any) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=Kind.BARE_METAL,
            shape=shape,
            location=self.settings.location,
            image=request.image,
            **more,
        )

    def _price(self, request: Request, whole: Shape) -> Decimal:
        part = max(
            request.cpus / whole.cpus,
            request.memory / whole.memory,
            request.gpus / whole.gpus if whole.gpus else 0,
        )
        return (self.settings.price * Decimal(part)).quantize(Decimal("0.0001"))

    def _whole(self, gpus: Sequence[GPU]) -> Shape:
        """Return all there is to give: what the computer has, less what the configuration keeps."""
        cpus, memory = measure_computer()
        return Shape(
            cpus=min(cpus, self.settings.cpus or cpus),
            memory=min(memory, self.settings.memory or memory),
            disk=psutil.disk_usage(str(self._existing(self._base("")))).total,
            gpus=len(gpus),
            gpu_model=", ".join(sorted({gpu.model for gpu in gpus})),
            gpu_memory=max((gpu.memory for gpu in gpus), default=0),
        )

    def _taken(
        self, request: Request, whole: Shape, fitting: Sequence[GPU], held: Mapping[str, _Reservation]
    ) -> str:
        """Return what is missing for the request beside what others hold, in words; empty when it fits."""
        cpus = whole.cpus - sum(reservation.cpus for reservation in held.values())
        memory = whole.memory - sum(reservation.memory for reservation in held.values())
        if cpus + 1e-9 < request.cpus:
            return f"{max(cpus, 0):g} of {whole.cpus:g} CPUs are free"
        if memory < request.memory:
            return f"{format_size(max(memory, 0))} of {format_size(whole.memory)} of memory are free"
        if len(_free(fitting, held)) < request.gpus:
            return f"{len(_free(fitting, held))} of its GPUs are free"
        return ""

    def _reserve(self, spec: Spec, account: str, gpus: Sequence[GPU]) -> _Reservation:
        request, held, fitting = spec.request, self._reservations(), _fitting(spec.request, gpus)
        whole = self._whole(gpus)
        if never := shortfall(request, whole):
            raise Rejected(f"this computer never serves that: {never}")
        if why := self._taken(request, whole, fitting, held):
            raise NoCapacity(why)
        return _Reservation(
            id=spec.id,
            installation=self.context.installation,
            owner=spec.owner,
            name=spec.name,
            account=account,
            folder=str(self._base(account) / spec.id),
            cpus=request.cpus,
            memory=request.memory,
            gpus=tuple(gpu.id for gpu in _free(fitting, held)[: request.gpus]),
            boot=boot_id(),
            created=time.time(),
        )

    def _path(self, instance_id: str) -> Path:
        return self.context.folder / "reservations" / f"{instance_id}.json"

    def _reservations(self, *, ended: bool = False) -> dict[str, _Reservation]:
        """Return what is reserved, by id; with ``ended`` also what a restart of the computer has ended."""
        found: dict[str, _Reservation] = {}
        for path in self.context.folder.glob("reservations/*.json"):
            with contextlib.suppress(FileNotFoundError):
                values = json.loads(path.read_text())
                reservation = _Reservation(**values | {"gpus": tuple(values["gpus"])})
                if ended or reservation.boot == boot_id():
                    found[reservation.id] = reservation
        return found

    def _store(self, reservation: _Reservation) -> None:
        path = self._path(reservation.id)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(reservation)))
        new.replace(path)

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        self.context.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.context.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    async def _bury(self, graves: Path, account: str) -> None:
        """Remove the folders, and that of a session's socket: what the account can remove as the account, so that no
        link leads root astray."""
        with contextlib.suppress(KeyError):  # the account was removed meanwhile
            for work in graves.glob("*/work") if account else ():
                entry = pwd.getpwnam(account)
                process = await asyncio.create_subprocess_exec(
                    *("rm", "-rf", "--", str(work), f"/tmp/gridcloud-{graves.name}"),  # noqa: S108 - a session's
                    user=entry.pw_uid,
                    group=entry.pw_gid,
                    extra_groups=[],
                    env={"PATH": os.defpath},  # ours may hold secrets
                    stderr=asyncio.subprocess.DEVNULL,
                )
                await process.wait()
        await asyncio.to_thread(shutil.rmtree, graves, ignore_errors=True)
        if graves.exists():
            raise Transient(f"{graves} could not be removed", remedy="Remove it by hand if this persists.")

    async def _gpus(self) -> tuple[GPU, ...]:
        asked, gpus = self._known_gpus
        if not asked or time.monotonic() - asked > _GPU_SECONDS:
            gpus = await discover_gpus()
            self._known_gpus = (time.monotonic(), gpus)
        return gpus[: self.settings.gpus]


def _observation(reservation: _Reservation | None) -> Observation:
    if reservation is None:
        return Observation(phase=Phase.GONE, detail="nothing is reserved")
    if reservation.boot != boot_id():
        return Observation(phase=Phase.GONE, detail="this computer was restarted")
    enter = Path(reservation.folder) / "enter"
    if not Path(reservation.work).is_dir() or not enter.exists():
        return Observation(phase=Phase.GONE, detail="its folder was removed")
    try:
        home = pwd.getpwnam(reservation.account).pw_dir if reservation.account else str(Path.home())
    except KeyError:
        return Observation(phase=Phase.FAILED, detail=f"the account {reservation.account!r} was removed")
    address = LocalAddress(
        directory=reservation.work, home=home, user=reservation.account, enter=("/bin/sh", str(enter))
    )
    return Observation(phase=Phase.RUNNING, address=address)


def _make_folders(reservation: _Reservation, limits: Limits) -> None:
    """Make the instance's folder, which its account can pass but not change, its own within, and *enter*."""
    folder, work = Path(reservation.folder), Path(reservation.work)
    mode = 0o711 if reservation.account else 0o700
    if not folder.parent.exists():
        folder.parent.mkdir(mode=mode, parents=True, exist_ok=True)
    _check_ours(folder.parent.resolve())
    folder.mkdir(mode=mode, exist_ok=True)
    _check_ours(folder)
    folder.chmod(mode)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as new:
        new.write(render_enter(limits))
        os.fchmod(new.fileno(), 0o444)
    Path(new.name).replace(folder / "enter")
    # Under another name until it is the account's, so that whoever sees it can use it.
    fresh = Path(tempfile.mkdtemp(dir=folder))
    if reservation.account:
        entry = pwd.getpwnam(reservation.account)
        os.chown(fresh, entry.pw_uid, entry.pw_gid)
    if work.is_dir():
        fresh.rmdir()
    else:
        fresh.rename(work)


def _check_ours(folder: Path) -> None:
    """Raise Forbidden for a folder in which somebody else could put a link in root's way, or that is such a link."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o002:
        raise Forbidden(
            f"{folder} is no place for instances: others on this computer may write there",
            remedy="Set 'directory' of this provider to a folder that only you may write to.",
        )


def _fitting(request: Request, gpus: Sequence[GPU]) -> list[GPU]:
    return [
        gpu
        for gpu in gpus
        if request.gpu_model.lower() in gpu.model.lower() and gpu.memory >= request.gpu_memory
    ]


def _free(gpus: Sequence[GPU], held: Mapping[str, _Reservation]) -> list[GPU]:
    taken = {gpu for reservation in held.values() for gpu in reservation.gpus}
    return [gpu for gpu in gpus if gpu.id not in taken]
