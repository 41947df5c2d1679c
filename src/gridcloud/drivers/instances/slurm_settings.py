"""The settings of the `slurm` provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from gridcloud.instances.bootstraps import ProxyURL, ServiceURL
from gridcloud.instances.ssh_machine import SSHMachine, Word
from gridcloud.settings import Duration, ProviderSettings, Size

__all__ = ["SlurmSettings"]


def _check_directory(path: str) -> str:
    if path and (not path.startswith(("/", "~/")) or not path.isprintable() or ".." in path.split("/")):
        raise ValueError("must be absolute or start with ~/")
    return path.rstrip("/")


def _check_names(names: Mapping[str, str]) -> Mapping[str, str]:
    for name in names:
        if not name.isascii() or not name.isidentifier():
            raise ValueError(f"{name!r:.60} is no name of a variable")
    return names


Optional = Annotated[str, AfterValidator(lambda text: text and _check_option(text))]


def _check_option(text: str) -> str:
    if not text.isprintable() or len(text) > 300:
        raise ValueError("must be printable")
    return text


class SlurmSettings(ProviderSettings):
    """Settings of a cluster under Slurm."""

    place: ClassVar[tuple[str, ...]] = ("login", "directory")

    url: ServiceURL = Field(
        description="HTTPS address of this gridcloud's service, as the nodes of the cluster reach it"
    )
    ca: Path | None = Field(
        default=None,
        description="file of the authorities that the nodes believe (PEM); the system's otherwise",
    )
    proxy: ProxyURL = Field(default="", description="HTTP proxy that the nodes go through, http://HOST:PORT")
    networks: tuple[str, ...] = Field(
        default=(), description="networks (CIDR) that the nodes come from; any otherwise"
    )
    login: SSHMachine | None = Field(
        default=None, description="login node, as a host of the ssh driver; none: this computer is one"
    )
    key: str = Field(
        default="",
        description="private key to log in with: file:PATH, env:NAME or agent:; empty: the key of this gridcloud",
    )
    known_hosts: Path | None = Field(
        default=None, description="known_hosts file, for a login node without host_keys"
    )
    directory: Annotated[str, AfterValidator(_check_directory)] = Field(
        default="~/.gridcloud/slurm",
        description="folder that login node and nodes share; work and homes of instances lie there",
    )
    command: tuple[str, ...] = Field(
        default=(),
        description="gridcloud on the nodes, with arguments; the login node's own when not given",
    )
    environment: Annotated[Mapping[str, str], AfterValidator(_check_names)] = Field(
        default_factory=dict, description="variables for Slurm's commands and for jobs; nothing secret"
    )
    before: str = Field(default="", description="shell lines that a job begins with, e.g. module load python")
    partitions: tuple[Word, ...] = Field(default=(), description="partitions to use; all when not given")
    account: Optional = Field(default="", description="account that jobs are charged to")
    qos: Optional = Field(default="", description="quality of service")
    constraint: Optional = Field(
        default="", description="features that nodes must have, as sbatch takes them"
    )
    reservation: Optional = Field(default="", description="reservation to use")
    gpu_memory: Mapping[str, Size] = Field(
        default_factory=dict,
        description="memory of each GPU by its type: Slurm does not tell it, e.g. a100: 40GiB",
    )
    time: Duration = Field(
        default=0, description="time of a job where none is asked for, e.g. 8h; 0: the partition's own"
    )
    margin: Duration = Field(
        default=300, description="how much longer than its instance a job may last: it starts and ends within"
    )
    wait: Duration = Field(
        default=600, description="longest expected wait in the queue; 0: only what starts at once"
    )
    users: tuple[str, ...] = Field(
        default=(), description="users who may have jobs, beside the one named as the account that logs in"
    )
    share_account: bool = Field(
        default=False,
        description="let everybody have jobs, all as one account: each can read the others' files",
    )
    allow_root: bool = Field(default=False, description="run jobs though the account is root")
