"""Settings of the ``container`` driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from gridcloud.instances.model import parse_size
from gridcloud.settings import ProviderSettings

__all__ = ["ContainerSettings"]

Size = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]


class ContainerSettings(ProviderSettings):
    """Settings of an engine of containers."""

    engine: str = Field(
        default="",
        description="the engine: unix:///path/of/its/socket, or tcp://127.0.0.1:PORT; by default DOCKER_HOST, else the "
        "socket of this user's Podman or Docker, else the system's",
    )
    image: str = Field(
        min_length=1, description="image of requests that name none; it has jupyterhub-singleuser"
    )
    images: tuple[str, ...] = Field(
        default=(), description="further images that requests may name; * stands for anything (team/*:2026)"
    )
    pull: Literal["missing", "never"] = Field(
        default="missing", description="fetch images that are not there (missing), or refuse them (never)"
    )
    cpus: float | None = Field(
        default=None, gt=0, description="CPU cores to give in all; the engine's when not given"
    )
    memory: Size | None = Field(
        default=None, description="memory to give in all, e.g. 24GiB; the engine's when not given"
    )
    overcommit: float = Field(
        default=1, ge=1, le=100, description="how often each CPU core is given; memory is never given twice"
    )
    gpus: tuple[str, ...] = Field(
        default=(),
        description="GPUs to give, each to one container at a time: CDI names (nvidia.com/gpu=0), or the numbers or "
        "UUIDs that Docker's nvidia runtime knows",
    )
    gpu_model: str = Field(default="", description="what these GPUs are, e.g. H100")
    gpu_memory: Size | None = Field(default=None, description="memory of each GPU, e.g. 80GiB")
    processes: int = Field(default=4096, gt=0, description="processes and threads of one container, at most")
    network: str = Field(
        default="default",
        description="default (the engine's own, outwards only: no port is ever published), none, or a network's name",
    )
    user: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?)?$",
        description="user within, by name or number; by default the image's, and 1000:1000 where that is root",
    )
    allow_root: bool = Field(
        default=False, description="let containers run as root within, where image or user say so"
    )
    keep_homes: bool = Field(
        default=True,
        description="keep each owner's home in a volume of the engine when a container has ended: their work is there; "
        "never those of partners' users",
    )
    mounts: Mapping[str, str] = Field(
        default_factory=dict,
        description="folders of the engine's computer to mount, read-only: path there to path in the container",
    )

    @field_validator("engine")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if value and not re.match(r"unix:///|(tcp|http)://(127\.|localhost:|\[::1\])", value):
            raise ValueError(
                "must be unix:///path or tcp://127.0.0.1:PORT; for an engine elsewhere forward its socket through SSH"
            )
        return value

    @field_validator("network")
    @classmethod
    def _no_shared_network(cls, value: str) -> str:
        if value == "host" or value.startswith(("container:", "ns:")) or not re.fullmatch(r"[\w.-]+", value):
            raise ValueError("must be default, none, or the name of a network; the host's own is not shared")
        return value

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for path in (*value, *value.values()):
            if not path.startswith("/") or ".." in path.split("/") or ":" in path:
                raise ValueError(f"{path!r} must be an absolute path without '..' and ':'")
        for within in value.values():
            if within.rstrip("/") in ("", "/gridcloud", "/gridcloud/home"):
                raise ValueError(f"{within!r} is where something else is; mount it elsewhere")
        return value
