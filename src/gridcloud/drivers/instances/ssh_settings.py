"""The settings of the `ssh` provider."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridcloud.instances.model import parse_size
from gridcloud.instances.ssh_machine import SSHMachine
from gridcloud.settings import ProviderSettings

__all__ = ["SSHHost", "SSHReserve", "SSHSettings"]


def _check_directory(path: str) -> str:
    if path and (not path.startswith(("/", "~/")) or not path.isprintable() or ".." in path.split("/")):
        raise ValueError("must be absolute or start with ~/")
    return path.rstrip("/")


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]


class SSHHost(SSHMachine):
    """One machine of the pool."""

    cpus: float | None = Field(default=None, gt=0, description="CPU cores to give; all it has when not given")
    memory: Size | None = Field(
        default=None, description="memory to give, e.g. 60GiB; all it has when not given"
    )
    gpus: int | None = Field(default=None, ge=0, description="GPUs to give; all it has when not given")
    location: str = Field(default="", description="where it is; the provider's when not given")
    price: Decimal | None = Field(
        default=None, ge=0, description="price per hour of the whole machine; the provider's when not given"
    )


class SSHReserve(BaseModel):
    """What is kept back on each host for those it belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(default=0, ge=0, description="CPU cores that are never given")
    memory: Size = Field(default=0, description="memory that is never given, e.g. 2GiB")


class SSHSettings(ProviderSettings):
    """Settings of a pool of machines."""

    hosts: tuple[SSHHost, ...] = Field(min_length=1, description="the machines")
    key: str = Field(
        default="",
        description="private key to log in with: file:PATH, env:NAME or agent:; empty: the key of this gridcloud",
    )
    known_hosts: Path | None = Field(
        default=None,
        description="known_hosts file for those machines that have no host_keys or host_authorities",
    )
    directory: Annotated[str, AfterValidator(_check_directory)] = Field(
        default="",
        description="folder on the hosts; /var/lib/gridcloud for root, else ~/.gridcloud, when not given",
    )
    accounts: Literal["auto", "per-owner", "login"] = Field(
        default="auto",
        description="per-owner: an account of its own for each owner, which needs root or sudo; login: all run as the "
        "account we log in with, and a host serves one owner at a time; auto: per-owner where it can be",
    )
    keep_homes: bool = Field(
        default=True,
        description="keep an owner's account (locked) and home when the last instance has ended: their work is there; "
        "never those of partners' users",
    )
    reserve: SSHReserve = Field(default=SSHReserve(), description="what is kept back on each host")
    processes: int = Field(default=4096, ge=16, description="processes and threads of one instance, at most")

    @model_validator(mode="after")
    def _check_hosts(self) -> Self:
        labels = [host.label for host in self.hosts]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"hosts: {', '.join(twice)} is there twice")
        return self
