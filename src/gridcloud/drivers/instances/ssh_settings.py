"""The settings of the `ssh` provider."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.ssh_keys import is_public_key, read_known_hosts
from gridcloud.instances.model import parse_size
from gridcloud.settings import ProviderSettings

__all__ = ["SSHHost", "SSHMachine", "SSHReserve", "SSHSettings"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_key(line: str) -> str:
    line = line.strip()
    if not is_public_key(line):
        raise ValueError("must be a public key line such as 'ssh-ed25519 AAAA…'")
    return " ".join(line.split()[:2])


def _check_word(text: str) -> str:
    if not text.isprintable() or len(text.split()) != 1 or text.startswith("-") or text != text.strip():
        raise ValueError("must be one word")
    return text


def _check_directory(path: str) -> str:
    if path and (not path.startswith(("/", "~/")) or not path.isprintable() or ".." in path.split("/")):
        raise ValueError("must be absolute or start with ~/")
    return path.rstrip("/")


Word = Annotated[str, AfterValidator(_check_word)]
Keys = Annotated[tuple[Annotated[str, AfterValidator(_check_key)], ...], BeforeValidator(_as_list)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]


class SSHMachine(BaseModel):
    """How a machine is reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Word = Field(description="name or address of the machine")
    port: int = Field(default=22, ge=1, le=65535, description="port of its SSH server")
    user: Word = Field(
        description="account to log in with: root, one that may use sudo without a password, or any"
    )
    host_keys: Keys = Field(
        default=(),
        description="the machine's host key, or several, as public key lines; nothing else is accepted",
    )
    host_authorities: Keys = Field(
        default=(), description="public keys of authorities whose host certificates are accepted"
    )
    key: str = Field(
        default="",
        description="private key to log in with: file:PATH, env:NAME or agent:; empty: the provider's",
    )
    jump: SSHMachine | None = Field(
        default=None, description="machine to go through, described in the same way"
    )

    @property
    def label(self) -> str:
        """The machine's name in offers and messages."""
        return self.host if self.port == 22 else f"{self.host}:{self.port}"

    def address(self, key: str, known_hosts: Path | None) -> SSHAddress:
        """Return the address, with what a known_hosts file says where nothing is pinned here.

        Raises InvalidSettings when the file cannot be read.
        """
        keys, authorities = self.host_keys, self.host_authorities
        if not keys and not authorities and known_hosts is not None:
            keys, authorities = read_known_hosts(known_hosts, self.host, self.port)
        return SSHAddress(
            host=self.host,
            port=self.port,
            user=self.user,
            host_keys=keys,
            host_authorities=authorities,
            key=self.key or key,
            jump=self.jump.address(key, known_hosts) if self.jump else None,
        )


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
        description="keep an owner's account (locked) and home when the last instance has ended: their work is there",
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
