"""Settings of the `qemu` driver."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gridcloud.instances.bootstraps import AgentDoor
from gridcloud.instances.ssh_machine import SSHMachine
from gridcloud.settings import ProviderSettings, Size

__all__ = ["QEMUImage", "QEMUSettings"]


def _check_path(path: str) -> str:
    if path and (not path.startswith(("/", "~/")) or not path.isprintable()):
        raise ValueError("must be absolute or start with ~/")
    return path


def _check_source(source: str) -> str:
    if source.startswith(("http://", "https://")):
        if not source.isprintable() or len(source.split()) != 1:
            raise ValueError("must be one URL")
        return source
    if not source:
        raise ValueError("must be a path or a URL")
    return _check_path(source)


HostPath = Annotated[str, AfterValidator(_check_path)]


class QEMUImage(BaseModel):
    """A disk that machines start from; it is never written to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[str, AfterValidator(_check_source)] = Field(
        description="path on the host, or an http(s) URL that the host fetches once"
    )
    sha256: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="SHA-256 of the image, in hexadecimal: required for a URL",
    )
    format: Literal["qcow2", "raw"] = Field(default="qcow2", description="format of the image")
    kernel: HostPath = Field(
        default="", description="kernel on the host that QEMU starts itself; empty: the image's boot loader"
    )
    initrd: HostPath = Field(default="", description="initial ramdisk of that kernel, on the host")
    append: str = Field(
        default="root=/dev/vda rw console=ttyS0", max_length=2000, description="command line of that kernel"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_url and not self.sha256:
            raise ValueError(
                "sha256: an image from a URL needs it, for nothing else says that it is the right one"
            )
        if self.initrd and not self.kernel:
            raise ValueError("initrd: is for a kernel, and there is none")
        return self

    @property
    def is_url(self) -> bool:
        """Whether it comes from elsewhere."""
        return not self.source.startswith(("/", "~/"))

    @property
    def paths(self) -> tuple[str, ...]:
        """The files on the host that it needs."""
        files = (self.source if not self.is_url else "", self.kernel, self.initrd)
        return tuple(path for path in files if path)


class QEMUSettings(ProviderSettings):
    """Settings of virtual machines on one computer."""

    place: ClassVar[tuple[str, ...]] = ("host", "directory")

    images: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")], QEMUImage] = Field(
        min_length=1, description="images by the name that requests ask for them by"
    )
    image: str = Field(default="", description="image of requests that name none; the first when not given")
    host: SSHMachine | None = Field(
        default=None,
        description="machine that the virtual ones run on, reached by SSH; this computer when not given",
    )
    known_hosts: Path | None = Field(
        default=None,
        description="known_hosts file for the host, where host_keys and host_authorities are not given",
    )
    directory: HostPath = Field(
        default="",
        description="folder on the host; by default /var/lib/gridcloud/machines for root, else ~/.gridcloud/machines",
    )
    program: str = Field(
        default="qemu-system-x86_64", pattern=r"^[A-Za-z0-9/][A-Za-z0-9/._+-]*$", description="QEMU's program"
    )
    accelerator: Literal["auto", "kvm", "tcg"] = Field(
        default="auto",
        description="kvm: the processor's own virtualisation; tcg: emulation, many times slower; auto: kvm where a "
        "trial of it succeeds, else tcg",
    )
    cpu: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._,+=-]*$",
        description="model of processor, as QEMU names it; the host's own with kvm, else one of x86-64-v2",
    )
    cpus: int | None = Field(
        default=None, gt=0, description="CPUs to give in all; all there are when not given"
    )
    memory: Size | None = Field(
        default=None, description="memory to give in all, e.g. 24GiB; seven eighths of it when not given"
    )
    disk: Size = Field(
        default=0,
        description="size of a machine's disk, e.g. 20GiB; 0: the image's; a request may ask for more",
    )
    machines: int = Field(default=0, ge=0, description="machines at once, at most; 0: any number")
    ports: tuple[Annotated[int, Field(ge=1024, le=65535)], Annotated[int, Field(ge=1024, le=65535)]] = Field(
        default=(20000, 29999),
        description="first and last of the host's ports on 127.0.0.1 under which machines are reached",
    )
    outbound: bool = Field(
        default=False,
        description="let machines open connections: to the world, and to all that the host itself reaches, its own "
        "127.0.0.1 included",
    )
    agent: AgentDoor | None = Field(
        default=None,
        description="have an agent in each machine dial this gridcloud's service, in place of a port that leads to its "
        "SSH server: {url: https://HOST:PORT}; the image or boot_script brings gridcloud then",
    )
    confine: bool = Field(
        default=True,
        description="where we are root on the host, run each machine as a user id of its own that owns nothing else",
    )
    gpus: tuple[Annotated[str, Field(pattern=r"^([0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$")], ...] = (
        Field(
            default=(),
            description="GPUs to give, each to one machine at a time: PCI addresses (0000:41:00.0), bound to vfio-pci",
        )
    )
    gpu_model: str = Field(default="", description="what these GPUs are, e.g. H100")
    gpu_memory: Size = Field(default=0, description="memory of each GPU, e.g. 80GiB")
    user: str = Field(
        default="gridcloud",
        pattern=r"^[a-z_][a-z0-9_-]{0,31}$",
        description="account of the owner in the machine, made at its first boot",
    )
    sudo: bool = Field(
        default=True, description="let the owner become root in the machine, which is theirs alone"
    )
    boot_script: str = Field(
        default="",
        description="shell lines that each machine runs as root at its first boot; no secrets here",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image and self.image not in self.images:
            raise ValueError(f"image: {self.image!r} is none of images")
        if self.ports[0] > self.ports[1]:
            raise ValueError("ports: the first is above the last")
        if self.agent and not self.outbound:
            raise ValueError("agent: dials out, so that machines need outbound: true")
        return self

    @property
    def default_image(self) -> str:
        """The name of the image of requests that name none."""
        return self.image or next(iter(self.images))
