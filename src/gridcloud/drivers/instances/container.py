"""Containers of Docker or Podman, each within its share of the engine's computer.

An instance is one container. Its first process only waits, and ends when the expiry that was noted for it has
come, so that a container ends itself whoever has gone away. Its own folder is `FOLDER`, made for its user; within lies
the home, which is the owner's and outlives the container.
What a container may take is kept in its labels, so the engine alone knows what is taken; nothing is overcommitted.
It has no capabilities, gains no privileges, publishes no port, and is not root within unless that is allowed.
"""

from __future__ import annotations

import asyncio
import fcntl
import fnmatch
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

from gridcloud.connections.model import ContainerAddress
from gridcloud.drivers.instances.container_engine import ContainerEngine, NameTaken, find_engine, make_archive
from gridcloud.drivers.instances.container_homes import (
    HOME,
    give_home,
    label_text,
    make_home,
    prove_home,
    short_name,
    tell_homes,
)
from gridcloud.drivers.instances.container_settings import ContainerSettings
from gridcloud.drivers.instances.container_users import find_ids, is_root
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    NoCapacity,
    NotFound,
    Rejected,
    Transient,
    Unreachable,
)
from gridcloud.instances.driver import Context, Handing, InstanceDriver
from gridcloud.instances.matching import count_cpus, shortfall
from gridcloud.instances.model import (
    MOUNTS,
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

__all__ = ["ContainerDriver"]

T = TypeVar("T")

FOLDER = "/gridcloud"
"""The instance's own folder: working directory of its user, gone with it."""

EXPIRY = "/.gridcloud-expires"
"""File within: seconds since 1970 when the container ends itself."""

GRACE = 3600
"""Seconds beyond the time asked for, until the end is armed: starting takes time."""

PULL = 45
"""Seconds that a creation waits for an image to come."""

KNOWN = 30
"""Seconds for which what the engine said of its computer is believed."""

# The first process: `sleep` and `date` are all it needs beside /bin/sh.
WAIT = f"""
trap 'exit 0' TERM INT
while :; do
  at=; {{ read -r at < {EXPIRY}; }} 2> /dev/null
  if [ -n "$at" ]; then now=$(date +%s) || exit 1; [ "$now" -lt "$at" ] || exit 0; fi
  sleep 5 & wait $! || exit 1
done
"""

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
_creating = threading.Lock()


class ContainerDriver(Handing, InstanceDriver):
    """One engine."""

    Settings: ClassVar[type[ProviderSettings]] = ContainerSettings
    settings: ContainerSettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._engine: ContainerEngine | None = None
        self._known: tuple[float, Shape] | None = None
        self._pulls: dict[str, asyncio.Task[None]] = {}

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Offer a container as asked; see the contract."""
        return await self._ask(lambda engine: [self._offer(engine, request)])

    async def images(self) -> Sequence[str]:
        """Return the images that are there and may be asked for, the default one first."""

        def look(engine: ContainerEngine) -> list[str]:
            # An engine may list an image under a longer name than the one it takes.
            tails = [
                "/".join(name.split("/")[skip:])
                for name in engine.images()
                for skip in range(name.count("/") + 1)
            ]
            return [name for name in tails if self._allowed(name) and not _same(name, self.settings.image)]

        return list(dict.fromkeys([self.settings.image, *await self._ask(look)]))

    async def create(self, spec: Spec) -> Handle:
        """Create and start the container; see the contract. Raises InvalidRequest for an image that may not be
        asked for or does not exist."""
        image = self._image(spec.request)
        await self._fetch(image)
        return await self._ask(lambda engine: self._create(engine, spec, image))

    async def observe(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Ask for all of ours in one call; see the contract."""
        if not handles:
            return {}

        def observe(engine: ContainerEngine) -> dict[str, Observation]:
            held = {entry["Id"]: entry for entry in engine.containers([self._tag])}
            return {
                instance_id: self._observation(engine, held.get(str(handle.data.get("container"))))
                for instance_id, handle in handles.items()
            }

        return await self._ask(observe)

    async def destroy(self, instance_id: str, handle: Handle | None) -> None:
        """Remove the container with all that runs in it; see the contract."""

        def destroy(engine: ContainerEngine) -> None:
            for pause in (0, 0.1, 0.3, 1, 3):
                time.sleep(pause)
                held = engine.containers([self._tag, f"gridcloud.instance={instance_id}"])
                if not held:
                    return
                for entry in held:
                    engine.remove(entry["Id"])
            raise Transient(
                f"The container of {instance_id} is still there.", remedy="It will be tried again."
            )

        await self._ask(destroy)

    async def holdings(self) -> Sequence[Holding]:
        """List our containers; see the contract."""
        held = await self._ask(lambda engine: engine.containers([self._tag]))
        return [
            Holding(
                instance_id=entry["Labels"]["gridcloud.instance"],
                what="container",
                name=(entry.get("Names") or [entry["Id"]])[0].lstrip("/"),
                created=datetime.fromtimestamp(entry["Created"], UTC),
                handle=Handle(data={"container": entry["Id"]}),
            )
            for entry in held
            if "gridcloud.instance" in entry["Labels"]
        ]

    async def arm(self, instance_id: str, handle: Handle, at: datetime) -> None:
        """Note in the container when it ends itself: at most 5 seconds later. Raises NotFound, Transient."""
        archive = make_archive((), 0, 0, {EXPIRY: f"{math.ceil(at.timestamp())}\n"})
        await self._ask(lambda engine: engine.write(str(handle.data.get("container")), archive))

    def handing(self) -> str:
        """Return why none can be made ahead: a home cannot be mounted in a container that runs."""
        return (
            "its containers have their owners' homes from the start (keep_homes)"
            if self.settings.keep_homes
            else ""
        )

    async def check(self) -> Sequence[Finding]:
        """Tell whether the engine answers, what it can give, how well limits hold, and of the image."""
        try:
            return await self._ask(self._check)
        except GridcloudError as error:
            return [self._finding(False, error.message, error.remedy or "Look at the engine's log.")]

    async def close(self) -> None:
        """Let go of the engine; see the contract."""
        for pull in self._pulls.values():
            pull.cancel()
        self._pulls.clear()
        if self._engine is not None:
            engine, self._engine = self._engine, None
            await asyncio.to_thread(engine.close)

    @property
    def _tag(self) -> str:
        return f"gridcloud.installation={self.context.installation}"

    async def _ask(self, call: Callable[[ContainerEngine], T]) -> T:
        if self._engine is None:
            url = self.settings.engine or find_engine()
            if not url:
                raise Unreachable(
                    f"The provider {self.context.provider} finds no container engine.",
                    remedy="Start Docker or Podman's service, or set 'engine' to the URL of its socket.",
                )
            self._engine = ContainerEngine(url)
        return await asyncio.to_thread(call, self._engine)

    # Offers

    def _offer(self, engine: ContainerEngine, request: Request) -> Offer:
        whole = self._whole(engine)
        image = request.image or self.settings.image
        why = self._why_no_image(engine, image) or shortfall(request, whole)
        if why:
            return self._made_offer(request, image, whole, possible=False, available=False, why_not=why)
        shape = Shape(
            cpus=request.cpus,
            memory=max(request.memory, 16 << 20),  # below this no engine starts a container
            gpus=request.gpus,
            gpu_model=whole.gpu_model if request.gpus else "",
            gpu_memory=whole.gpu_memory if request.gpus else 0,
        )
        why = self._why_full(shape, whole, _taking(engine.containers(["gridcloud.instance"])))
        part = max(
            shape.cpus / whole.cpus, shape.memory / whole.memory, shape.gpus / whole.gpus if whole.gpus else 0
        )
        price = (self.settings.price * Decimal(part)).quantize(Decimal("0.0001"))
        return self._made_offer(request, image, shape, available=not why, why_not=why, price=price)

    def _made_offer(self, request: Request, image: str, shape: Shape, **more: Any) -> Offer:
        return Offer(
            provider=self.context.provider,
            kind=Kind.CONTAINER,
            shape=shape,
            location=self.settings.location,
            image=image,
            **more,
        )

    def _whole(self, engine: ContainerEngine) -> Shape:
        now = time.monotonic()
        if self._known is None or now - self._known[0] > KNOWN:
            said, settings = engine.information(), self.settings
            cpus, memory = float(said["NCPU"]), int(said["MemTotal"])
            shape = Shape(
                cpus=min(cpus, settings.cpus or cpus),
                memory=min(memory, settings.memory or memory),
                gpus=len(settings.gpus),
                gpu_model=settings.gpu_model,
                gpu_memory=settings.gpu_memory or 0,
            )
            self._known = (now, shape)
        return self._known[1]

    def _why_no_image(self, engine: ContainerEngine, image: str) -> str:
        if not self._allowed(image):
            return self._not_allowed(image)
        if self.settings.pull == "never":
            return "" if _is_there(engine, image) else _no_image(image, engine.images())
        return ""

    def _why_full(self, shape: Shape, whole: Shape, taken: Sequence[Shape]) -> str:
        free_cpus = whole.cpus * self.settings.overcommit - sum(one.cpus for one in taken)
        free_memory = whole.memory - sum(one.memory for one in taken)
        free_gpus = whole.gpus - sum(one.gpus for one in taken)
        if shape.cpus <= free_cpus + 1e-6 and shape.memory <= free_memory and shape.gpus <= free_gpus:
            return ""
        words = f"{max(free_cpus, 0):g} CPUs and {format_size(max(free_memory, 0))} are free"
        return words + (f", and {max(free_gpus, 0)} GPUs" if whole.gpus else "")

    # Images

    def _allowed(self, image: str) -> bool:
        names = (self.settings.image, *self.settings.images)
        return any(_same(image, name) or fnmatch.fnmatchcase(image, name) for name in names)

    def _not_allowed(self, image: str) -> str:
        names = ", ".join((self.settings.image, *self.settings.images))
        return f"the image {image!r:.120} may not be asked for here; allowed are: {names}"

    def _image(self, request: Request) -> str:
        image = request.image or self.settings.image
        if not _IMAGE.fullmatch(image) or not self._allowed(image):
            raise InvalidRequest(f"{self.context.provider}: {self._not_allowed(image)}.")
        return image

    async def _fetch(self, image: str) -> None:
        """See that the image is there. Raises Transient while it still comes, Rejected when it never will."""

        if await self._ask(lambda engine: _is_there(engine, image)):
            return
        there = await self._ask(ContainerEngine.images)
        if self.settings.pull == "never":
            raise InvalidRequest(f"{self.context.provider}: {_no_image(image, there)}.")
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = asyncio.ensure_future(self._ask(lambda engine: engine.pull(image)))
            pull.add_done_callback(lambda _: self._pulls.pop(image, None))
        try:
            async with asyncio.timeout(PULL):
                await asyncio.shield(pull)
        except TimeoutError:
            raise Transient(
                f"The image {image} is still being fetched for {self.context.provider}.",
                remedy="Try again soon.",
            ) from None
        except (NotFound, Rejected, Transient) as error:
            kind = Transient if isinstance(error, Unreachable) else InvalidRequest
            raise kind(
                f"{self.context.provider}: {_no_image(image, there)}. Fetching it failed: {error.message}",
                remedy=error.remedy or "Name another image, or give the engine this one.",
            ) from error

    # One life

    def _create(self, engine: ContainerEngine, spec: Spec, image: str) -> Handle:
        with self._locked():
            held = engine.containers([self._tag, f"gridcloud.instance={spec.id}"])
            if held:
                container = str(held[0]["Id"])
            else:
                container = self._make(engine, spec, image)
        engine.start(container)
        if home := self._home(engine, spec):
            try:
                prove_home(engine, container, home)
            except Rejected:
                engine.remove(container)
                raise
        return Handle(data={"container": container})

    def _make(self, engine: ContainerEngine, spec: Spec, image: str) -> str:
        whole, shape = self._whole(engine), spec.offer.shape
        others = engine.containers(["gridcloud.instance"])
        if why := self._why_full(shape, whole, _taking(others)):
            raise NoCapacity(f"{self.context.provider} is full: {why}.")
        try:
            user = self._user(engine, image)
            name = f"gridcloud-{short_name(self.context.installation)}-{spec.id}"
            gpus = self._free_gpus(shape.gpus, others)
            home = self._home(engine, spec)
            host = self._host(spec, gpus, user, home)
            container = engine.create(name, host, **self._what(spec, image, user, gpus))
        except NotFound as error:
            raise InvalidRequest(f"{self.context.provider}: {_no_image(image, engine.images())}.") from error
        except NameTaken as error:
            raise Transient(
                f"{error.message}", remedy="Remove the stranger's container of that name."
            ) from error
        try:
            self._leave_if_too_late(engine, container, shape, whole)
            uid, gid = find_ids(engine, container, user)
            notes = {
                EXPIRY: f"{int(time.time()) + spec.request.time + GRACE}\n" if spec.request.time else "\n"
            }
            folders = [FOLDER] if home else [FOLDER, HOME]
            engine.write(container, make_archive(folders, uid, gid, notes))
            if home:
                give_home(engine, container, home, uid, gid)
        except BaseException:
            engine.remove(container)
            raise
        return container

    def _home(self, engine: ContainerEngine, spec: Spec) -> str:
        if spec.guest or not self.settings.keep_homes:
            return ""
        return make_home(engine, self.context.installation, spec.owner)

    def _leave_if_too_late(self, engine: ContainerEngine, container: str, shape: Shape, whole: Shape) -> None:
        """Others than us may use the engine: of those who made a container at once, the first to be made stay."""
        entries = sorted(
            engine.containers(["gridcloud.instance"]), key=lambda entry: (entry["Created"], entry["Id"])
        )
        places = [str(entry["Id"]) for entry in entries]
        before = entries[: places.index(container)] if container in places else entries
        if why := self._why_full(shape, whole, _taking(before)):
            raise NoCapacity(f"{self.context.provider} is full: somebody else was first; {why}.")

    def _host(self, spec: Spec, gpus: Sequence[str], user: str, home: str) -> dict[str, Any]:
        shape = spec.offer.shape
        host: dict[str, Any] = {
            "nano_cpus": int(shape.cpus * 1e9),
            "mem_limit": shape.memory,
            "memswap_limit": shape.memory,
            "pids_limit": self.settings.processes,
            "network_mode": self.settings.network,
            "security_opt": ["no-new-privileges"],
            "init": True,
            "binds": {
                there: {"bind": within, "mode": "ro"} for there, within in self.settings.mounts.items()
            },
        }
        if home:
            host["binds"][home] = {"bind": HOME, "mode": "nocopy"}  # nothing of an image's comes into it
        for folder in spec.folders:
            mode = "ro" if folder.read_only else "rw"
            host["binds"][folder.source] = {"bind": f"{MOUNTS}/{folder.at}", "mode": mode}
        if not is_root(user):
            host["cap_drop"] = ["ALL"]
        named = [gpu for gpu in gpus if "=" in gpu]
        numbered = [gpu for gpu in gpus if "=" not in gpu]
        if named:
            host["devices"] = [f"{gpu}:{gpu}:rwm" for gpu in named]
        if numbered:
            host["device_requests"] = [{"Driver": "nvidia", "DeviceIDs": numbered, "Capabilities": [["gpu"]]}]
        return host

    def _what(self, spec: Spec, image: str, user: str, gpus: Sequence[str]) -> dict[str, Any]:
        shape = spec.offer.shape
        return {
            "image": image,
            "entrypoint": ["/bin/sh", "-c", WAIT],
            "command": [],
            "user": user,
            "working_dir": "/",
            "environment": {"HOME": HOME},
            "labels": {
                "gridcloud.installation": self.context.installation,
                "gridcloud.instance": spec.id,
                "gridcloud.owner": label_text(spec.owner),
                "gridcloud.name": label_text(spec.name),
                "gridcloud.cpus": repr(shape.cpus),
                "gridcloud.memory": str(shape.memory),
                "gridcloud.gpus": ",".join(gpus),
            },
        }

    def _user(self, engine: ContainerEngine, image: str) -> str:
        user = self.settings.user or str(engine.image(image).get("User") or "")
        if self.settings.allow_root or not is_root(user):
            return user
        if self.settings.user:
            raise Rejected(
                f"{self.context.provider}: 'user' is root.", remedy="Set 'allow_root', or another user."
            )
        return "1000:1000"

    def _free_gpus(self, count: int, others: Sequence[Mapping[str, Any]]) -> list[str]:
        taken = {name for entry in others if _takes(entry) for name in _gpus(entry)}
        free = [gpu for gpu in self.settings.gpus if gpu not in taken]
        if len(free) < count:
            raise NoCapacity(f"{self.context.provider} has {len(free)} GPUs free.")
        return free[:count]

    def _observation(self, engine: ContainerEngine, entry: Mapping[str, Any] | None) -> Observation:
        state = entry["State"] if entry else ""
        if entry is None or state == "removing":
            return Observation(phase=Phase.GONE, detail="there is no such container")
        if state in ("created", "configured", "initialized", "restarting"):
            return Observation(phase=Phase.PENDING, detail=entry["Status"])
        if state in ("running", "paused"):
            address = ContainerAddress(engine=engine.url, container=entry["Id"], directory=FOLDER, home=HOME)
            return Observation(phase=Phase.RUNNING, address=address, detail=entry["Status"])
        try:
            ended = engine.inspect(entry["Id"])["State"]
        except NotFound:
            return Observation(phase=Phase.GONE, detail="there is no such container")
        why = f"it ended with exit code {ended.get('ExitCode')}"
        if ended.get("OOMKilled"):
            why = "it used more memory than it has and was killed"
        elif ended.get("ExitCode") == 0:
            why = "it ended by itself: its time is over"
        return Observation(phase=Phase.GONE, detail=why)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Let one creation at a time decide whether there is room, of all processes that share our folder."""
        with _creating, (self.context.folder / "creating.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # Checks

    def _check(self, engine: ContainerEngine) -> list[Finding]:
        said = engine.information()
        self._known = None
        whole = self._whole(engine)
        gives = f"{count_cpus(whole.cpus)}, {format_size(whole.memory)}, {whole.gpus} GPUs to give"
        findings = [
            self._finding(True, f"{said.get('Name', 'engine')} {said['Version']} at {engine.url}: {gives}")
        ]
        lacking = [name for name in ("MemoryLimit", "CpuCfsQuota", "PidsLimit") if said.get(name) is False]
        if lacking:
            message = f"the engine cannot hold containers to their share: {', '.join(lacking)} is off"
            remedy = (
                "Delegate the cpu, memory and pids controllers to the engine's user (systemd: Delegate=yes)."
            )
            findings.append(self._finding(False, message, remedy))
        else:
            version = said.get("CgroupVersion", "?")
            findings.append(self._finding(True, f"limits are held by control groups (version {version})"))
        image = self.settings.image
        if _is_there(engine, image):
            findings.append(self._finding(True, f"the image {image} is there"))
        elif self.settings.pull == "missing":
            findings.append(self._finding(True, f"the image {image} is not there yet and will be fetched"))
        else:
            findings.append(
                self._finding(False, _no_image(image, engine.images()), "Import or build it, or set 'image'.")
            )
        if self.settings.keep_homes:
            findings.append(self._finding(True, tell_homes(engine.volumes(self._tag))))
        numbered = [gpu for gpu in self.settings.gpus if "=" not in gpu]
        if numbered and "nvidia" not in (said.get("Runtimes") or {}):
            message = f"GPUs {', '.join(numbered)} are configured, and the engine has no nvidia runtime"
            findings.append(
                self._finding(False, message, "Install NVIDIA's container toolkit, or use CDI names.")
            )
        return findings

    def _finding(self, ok: bool, message: str, remedy: str = "") -> Finding:
        return Finding(subject=self.context.provider, ok=ok, message=message, remedy=remedy)


def _taking(entries: Sequence[Mapping[str, Any]]) -> list[Shape]:
    """What containers take: whoever made them, by their labels."""
    shapes = []
    for entry in entries:
        if _takes(entry):
            labels = entry["Labels"]
            try:
                cpus, memory = float(labels["gridcloud.cpus"]), int(labels["gridcloud.memory"])
            except (KeyError, ValueError):
                continue
            shapes.append(Shape(cpus=cpus, memory=memory, gpus=len(_gpus(entry))))
    return shapes


def _takes(entry: Mapping[str, Any]) -> bool:
    return entry["State"] not in ("exited", "dead", "stopped", "removing")


def _gpus(entry: Mapping[str, Any]) -> list[str]:
    return [name for name in str(entry["Labels"].get("gridcloud.gpus", "")).split(",") if name]


def _same(one: str, other: str) -> bool:
    """Whether two names are one: ``:latest`` is understood."""

    def whole(name: str) -> str:
        return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"

    return whole(one) == whole(other)


def _is_there(engine: ContainerEngine, image: str) -> bool:
    try:
        engine.image(image)
    except NotFound:
        return False
    return True


def _no_image(image: str, there: Sequence[str]) -> str:
    names = ", ".join(there[:12]) or "none"
    return f"there is no image {image!r:.120}; there are: {names}"
