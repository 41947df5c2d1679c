"""Build images, each on top of its parent: from a Debian root file system to a container, an archive or a disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from gridcloud.errors import ConfigurationFailed, DriverUnavailable, InvalidSettings
from gridcloud.images.engine import Podman, Tell, pinned_base
from gridcloud.images.locking import download_wheels, resolve
from gridcloud.images.model import Lock, digest_of
from gridcloud.images.reading import MACHINE, Image, Stack, write_lock
from gridcloud.images.rendering import EPOCH, build_files, containerfile, requirements_lock

__all__ = ["Builder", "Built", "tag_of"]

_SETUP = Path(__file__).with_name("setup")


@dataclass(frozen=True, slots=True)
class Built:
    """An image in Podman's store."""

    name: str
    reference: str
    """Its name with the digest of what it was built from: another one when anything of that changes."""
    id: str


@dataclass(slots=True)
class Builder:
    """Builds the images of one stack in one store. What is there already is not built again."""

    stack: Stack
    podman: Podman
    architecture: str
    cache: Path
    """Where wheels and contexts are kept."""
    tell: Tell
    base: str = ""
    """The image below all, by digest or ID; empty: a Debian root file system that is made here."""
    mirror: str = ""
    """A mirror of Debian's archive; empty: what the base has, or this computer's own."""
    _made: dict[str, Built] = field(default_factory=dict)

    async def build(self, name: str) -> Built:
        """Build an image after those below it. Raises NotFound, InvalidSettings, ConfigurationFailed."""
        if name in self._made:
            return self._made[name]
        image = self.stack[name]
        lock = self._lock(image)
        below = await self._below(image)
        self._made[name] = await self._build(image, lock, below, name)
        return self._made[name]

    async def lock(self, name: str) -> Path:
        """Find out anew what an image gets, and write its lock; return its path. Those below it are built."""
        image = self.stack[name]
        below = await self._below_debian(image) if image.definition.debian else ""
        lock = await resolve(
            self.stack, name, self.architecture, self.podman, below, self.tell, mirror=self.mirror
        )
        return write_lock(image, lock)

    async def save(self, built: Built, path: Path) -> None:
        """Write an image as an archive that `docker load` and `podman load` read."""
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        words = ["save", "--quiet", "--format=docker-archive", "--output", str(partial), built.reference]
        await self.podman.run(words, self.tell)
        partial.replace(path)

    async def build_machine(self, name: str, target: Path, size: str = "8G") -> None:
        """Write the disk, kernel and initrd of a machine that is the image with what boots it. Needs root."""
        for program in ("mkfs.ext4", "qemu-img"):
            if shutil.which(program) is None:
                raise DriverUnavailable(
                    f"There is no {program!r} on this computer.",
                    remedy="apt-get install qemu-utils e2fsprogs",
                )
        below = await self.build(name)
        image = self.stack[MACHINE]
        built = await self._build(image, self._lock(image), below.id, f"{name}-{MACHINE}")
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="machine-", dir=target) as folder:
            archive = Path(folder, "files.tar")
            made = await self.podman.run(["create", built.id, "true"], lambda line: None)
            try:
                await self.podman.run(["export", "--output", str(archive), made], self.tell)
            finally:
                await self.podman.run(["rm", made], lambda line: None)
            await _run(["sh", str(_SETUP / "machine.sh"), str(archive), folder, size], self.tell)
            for file in ("disk.qcow2", "vmlinuz", "initrd"):
                Path(folder, file).replace(target / file)

    def _lock(self, image: Image) -> Lock:
        lock = image.lock(self.architecture)
        if lock.of != self.stack.packages_digest(image.name):
            raise InvalidSettings(
                f"The lock of the image {image.name!r} is of other packages than its definition asks for.",
                remedy=f"Write it anew: gridcloud image lock {image.name}",
            )
        if lock.jupyterhub:
            _compare_jupyterhub(image.name, lock.jupyterhub, self.tell)
        return lock

    async def _below(self, image: Image) -> str:
        if parent := image.definition.parent:
            return (await self.build(parent)).id
        if self.base:
            return pinned_base(self.base)
        return await self._make_base(image.definition.release)

    async def _below_debian(self, image: Image) -> str:
        """Return the lowest image below that is the same to apt: those above it add nothing of Debian's."""
        while image.definition.parent and not self.stack[image.definition.parent].definition.debian:
            image = self.stack[image.definition.parent]
        return await self._below(image)

    async def _build(self, image: Image, lock: Lock, below: str, name: str) -> Built:
        text, files = containerfile(self.stack, image, lock), build_files(image, lock)
        parts = (f"{file}\n{words}" for file, words in sorted(files.items()))
        reference = f"{tag_of(name)}:{digest_of(below, text, *parts)[:12]}"
        latest = f"{tag_of(name)}:latest"
        if found := await self.podman.find(reference):
            await self.podman.run(["tag", found, latest], self.tell)
            return Built(name, reference, found)
        self.tell(f"building {reference}")
        async with self._context(image, lock, {"Containerfile": text, **files}) as folder:
            arguments = {"BASE": below, "APT_MIRROR": self.mirror}
            labels = {"org.opencontainers.image.base.digest": f"sha256:{below.rpartition(':')[2]}"}
            made = await self.podman.build(
                folder, arguments, (reference, latest), self.tell, labels=labels, epoch=EPOCH
            )
        return Built(name, reference, made)

    @contextlib.asynccontextmanager
    async def _context(self, image: Image, lock: Lock, files: dict[str, str]) -> AsyncIterator[Path]:
        """A folder with what is built, the wheels among it."""
        self.cache.mkdir(parents=True, exist_ok=True)
        wheels = await self._wheels(image, lock)
        with tempfile.TemporaryDirectory(prefix="build-", dir=self.cache) as name:
            folder = Path(name)
            folder.chmod(0o755)  # the last step runs as the session's account
            for file, text in files.items():
                (folder / file).write_text(text, encoding="utf-8")
            (folder / "wheels").mkdir()
            for wheel in wheels:
                os.link(wheel, folder / "wheels" / wheel.name)
            yield folder

    async def _wheels(self, image: Image, lock: Lock) -> list[Path]:
        """Fetch the wheels of a lock with this account's own pip: its index, its proxy, its certificates."""
        if not lock.python:
            return []
        text = requirements_lock(lock.python)
        folder = self.cache / "wheels" / digest_of(text)[:16]
        if not (folder / "complete").exists():
            self.tell(f"fetching {len(lock.python)} Python packages")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "requirements.txt").write_text(text, encoding="utf-8")
            python = self.stack.root(image.name).python_version
            await download_wheels(folder / "requirements.txt", folder, python, self.architecture, self.tell)
            (folder / "complete").touch()
        return sorted(folder.glob("*.whl"))

    async def _make_base(self, release: str) -> str:
        reference = f"{tag_of('debian')}:{release}"
        if found := await self.podman.find(reference):
            return found
        if shutil.which("mmdebstrap") is None:
            raise DriverUnavailable(
                "There is no 'mmdebstrap' on this computer, which makes a Debian root file system.",
                remedy="Install it, or name a base: --base NAME@sha256:…",
            )
        self.tell(f"making a root file system of Debian {release}")
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="base-", dir=self.cache) as folder:
            archive = Path(folder, "root.tar")
            words = ["sh", str(_SETUP / "base.sh"), release, *([self.mirror] if self.mirror else [])]
            await _run(words, self.tell, output=archive)
            await self.podman.run(["import", "--quiet", str(archive), reference], lambda line: None)
        return await self.podman.find(reference)


def tag_of(name: str) -> str:
    """Return what an image is called in Podman's store, without its tag."""
    return f"localhost/gridcloud-{name}"


def _compare_jupyterhub(name: str, within: str, tell: Tell) -> None:
    ours = metadata.version("jupyterhub")
    if Version(within).release[:2] != Version(ours).release[:2]:
        tell(
            f"the image {name} has JupyterHub {within}, and the hub here is {ours}: lock it anew for this one"
        )


async def _run(words: Sequence[str], tell: Tell, *, output: Path | None = None) -> None:
    """Run a program, telling what it says; its standard output may go to a file. Raises ConfigurationFailed."""
    with contextlib.ExitStack() as stack:
        said: int = asyncio.subprocess.PIPE
        if output is not None:
            said = stack.enter_context(output.open("wb")).fileno()
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=asyncio.subprocess.PIPE if output is not None else asyncio.subprocess.STDOUT,
        )
        lines: list[str] = []
        try:
            stream = process.stderr or process.stdout
            while stream is not None and (raw := await stream.readline()):
                if line := raw.decode(errors="replace").rstrip():
                    lines = [*lines[-14:], line]
                    tell(line)
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()
    if code:
        raise ConfigurationFailed(f"{Path(words[1]).name} ended with {code}:\n" + "\n".join(lines))
